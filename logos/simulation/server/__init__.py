"""The simulated engine: an HTTP server with vLLM's routes and shapes, paced by `logos.simulation.engine`.

    python -m logos.simulation.server --model NAME [--port 8000] ...

It stands in for a vLLM process on machines without GPUs: continuous batching in real time, sleep mode, vLLM's
metric names, sequences that are aborted when their connection closes. `settings` lists the flags. Only the
standard library, aiohttp, msgspec and prometheus-client may be imported, so that an engine starts in a moment and
takes little memory; it must not know anything of the scheduler or the gateway.
"""
