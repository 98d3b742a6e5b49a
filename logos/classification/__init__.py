"""Which models may serve a request and how well each suits it: permission, privacy, policy, tags, meaning.

Pure and stateless: catalogue, key, policy and texts in, models with weights out. Knows nothing of load, of HTTP or of
where an embedding comes from.
"""
