"""Starts the simulated engine, and stops it on SIGTERM or SIGINT: everything is aborted, then the process ends.

The process lives until it is told to stop: an engine survives whoever started it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import cast

from aiohttp import web

from logos.simulation.server.live import LiveEngine
from logos.simulation.server.neighbours import Neighbourhood
from logos.simulation.server.routes import Routes
from logos.simulation.server.settings import ServerSettings, parse

_GOODBYE_S_MAX = 0.5  # for answers that are being written when the process is told to stop

log = logging.getLogger("logos.simulation")


async def serve(settings: ServerSettings) -> None:
    """Serve until a signal comes."""
    folder = settings.neighbourhood
    neighbourhood = Neighbourhood(folder, settings.gpus) if folder is not None else None
    engine = LiveEngine(settings.live, neighbourhood)
    runner = web.AppRunner(
        Routes(settings, engine).app,
        access_log=None,
        handler_cancellation=True,  # a closed connection aborts its sequences
        shutdown_timeout=_GOODBYE_S_MAX,
    )
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
    await site.start()
    host, port = runner.addresses[0][:2]
    log.info("simulated engine of %s on http://%s:%d", settings.model, host, port)
    if settings.ignored:
        log.warning("ignored, for they mean nothing here: %s", " ".join(settings.ignored))

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stepping = asyncio.create_task(engine.run())
    stepping.add_done_callback(lambda _: stop.set())  # it never ends by itself, unless it breaks
    await stop.wait()
    engine.abort_all()
    await runner.cleanup()
    if stepping.done():
        stepping.result()
    stepping.cancel()
    if neighbourhood is not None:
        neighbourhood.leave()
    log.info("stopped")


def _new_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is no build for every platform; asyncio's own loop does the same, slower
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def main() -> None:
    """The command's entry."""
    settings = parse()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(asctime)s %(message)s")
    try:
        with asyncio.Runner(loop_factory=_new_event_loop()) as runner:
            runner.run(serve(settings))
    except OSError as error:
        sys.exit(f"cannot serve on {settings.host}:{settings.port}: {error.strerror or error}")


if __name__ == "__main__":
    main()
