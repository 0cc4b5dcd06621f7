"""The application: routes, guards around them, and the service that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI

import one_peace
from one_peace.server.access import AccessGate
from one_peace.server.errors import RESPONSES, add_error_handlers
from one_peace.server.guards import Headered, LoadGate
from one_peace.server.routes import describing, encoding, items, openai, operation, searching
from one_peace.server.routes.page import page_router
from one_peace.server.service import Service

_ANY = (400, 401, 403, 408, 413, 422, 429, 500, 501, 503, 504)  # what every operation may answer

DESCRIPTION = """Search over pictures, sounds, texts and whatever else the model encodes, and the embeddings themselves.

Errors have one shape, `{"error": {"message", "type", "param", "code"}}`. After 429 and 503 wait for the seconds that
`Retry-After` names. Where the service asks for a key, send `Authorization: Bearer KEY`."""


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service, which is closed when the application shuts down."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await anyio.to_thread.run_sync(service.warm_up)
        yield
        await anyio.to_thread.run_sync(service.close)

    app = FastAPI(
        title="ONE-PEACE",
        version=one_peace.__version__,
        description=DESCRIPTION,
        lifespan=life,
        docs_url=None,  # FastAPI's pages load scripts from another host
        redoc_url=None,
        responses={status: RESPONSES[status] for status in _ANY},
    )
    app.state.service = service
    add_error_handlers(app)
    routers = (searching.router, items.router, describing.router, encoding.router, openai.router, operation.router)
    for router in (*routers, page_router()):
        app.include_router(router)
    # From the inside out: the last one is met first.
    app.add_middleware(LoadGate, limits=service.settings.limits)
    app.add_middleware(AccessGate, settings=service.settings, keys=service.keys)
    app.add_middleware(Headered, observe=service.metrics.observe_request)
    return app
