"""The routes that people, probes and administrators call: health, metrics, API docs, /admin and /me, on FastAPI.

Everything that is called per token of traffic is in `asgi`, ahead of this app. Nothing here knows how a request to a
model is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response

from logos import __version__
from logos.gateway.admin import admin_routers
from logos.gateway.openapi import describe
from logos.gateway.rest import AdminContext
from logos.gateway.rest_errors import add_error_responses

if TYPE_CHECKING:
    from logos.gateway.app import Gateway


def build_pages(gateway: Gateway) -> FastAPI:
    """The app behind the hot routes; its lifespan is the gateway's."""
    app = FastAPI(
        title="Logos",
        version=__version__,
        description="One OpenAI-compatible door: /v1 takes what the OpenAI API documents; these are the other routes.",
        lifespan=gateway.lifespan,
    )
    add_error_responses(app)
    _add_health(app, gateway)
    context = AdminContext(
        accounts=gateway.accounts,
        scheduler=gateway.scheduler,
        ledger=gateway.ledger,
        queries=gateway.queries,
        directory=gateway.directory,
        classifier=gateway.classifier,
        resolution=gateway.resolution,
        body_bytes_max=gateway.settings.server.body_bytes_max,
        directory_stale_s=gateway.settings.gateway.directory_stale_s,
    )
    for router in admin_routers(context):
        app.include_router(router)
    describe(app)
    return app


def _add_health(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/health/live", tags=["health"], summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/health/ready", tags=["health"], summary="Requests can be served")
    async def ready(response: Response) -> dict[str, str]:
        if gateway.is_ready:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "not ready"}

    @app.get("/health", tags=["health"], summary="Every part, in detail")
    async def health() -> dict[str, Any]:
        return await gateway.health()

    @app.get("/metrics", tags=["health"], summary="Prometheus text for the whole platform")
    async def metrics() -> Response:
        return Response(await gateway.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")
