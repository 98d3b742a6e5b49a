"""Loops that run as long as their actor does. What they do, and how often, is theirs to say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 1.0


async def keep_going(loop: Callable[[], Awaitable[None]], again_after_s: float = AGAIN_AFTER_S) -> None:
    """Begins anew what an error has ended that nobody foresaw: an actor with a dead loop would look alive and notice
    nothing any more. Ends when the loop ends by itself, or is cancelled."""
    while True:
        try:
            return await loop()
        except Exception:
            name = getattr(loop, "__qualname__", repr(loop))
            log.exception("%s failed and begins anew in %.0f s", name, again_after_s)
            await asyncio.sleep(again_after_s)
