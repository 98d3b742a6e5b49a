"""How an endpoint is spoken to: upstream wire formats, and the one transport that carries them.

Targets (URL, headers) come out of the catalogue's secrets here, and bytes come back. What the bytes mean to a client,
who is asked and what it costs are not decided here.
"""
