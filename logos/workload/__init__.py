"""Workloads: files of requests with arrival times, made from a seed, replayed against a platform, and summed up.

`rows` and `generate` do no I/O, so that the simulation can use them, too. Nothing here knows how a platform works
inside: it is spoken to over HTTP like any client would.
"""
