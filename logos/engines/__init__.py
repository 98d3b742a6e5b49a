"""One engine process: how it is started, probed, put to sleep, woken and stopped, and found again afterwards.

This room only obeys; what runs where and when is decided by the scheduler. It may import `logos.domain` alone, so
the simulated engine is known here by the name of its module and nothing else.
"""
