"""Where and when each request runs, and which model is awake on which GPUs: events in, commands out.

Synchronous and deterministic: time arrives inside events, identities are plain values. No clock, no I/O, no Ray.
"""
