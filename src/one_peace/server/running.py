"""Starting and stopping the service."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from one_peace.errors import MissingExtraError
from one_peace.server.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from one_peace.server.service import Service

GRACE = 30  # seconds that requests in flight have when the service is told to stop


def serve(
    library: Path,
    settings: Settings,
    *,
    model: str | None = None,
    device: str = "cpu",
    ofa: str | None = None,
    announce: Callable[[str], Any],
) -> None:
    """Serves a library until SIGINT or SIGTERM; requests that were accepted are finished first.

    `ofa` is the name or path of a model that describes pictures. `announce` is told the address as soon as requests are
    answered. A library that is not there yet is made.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        OSError: the address cannot be listened on.
        ValueError: `ofa` is a model of another family, or `model` is one of that family.
    """
    try:
        import uvicorn

        from one_peace.server.service import Service
    except ImportError as error:
        raise MissingExtraError("the service", "serve") from error
    from one_peace.models.loading import from_pretrained, load_embedder
    from one_peace.models.ofa.interface import Ofa
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.search.library import DEFAULT_MODEL
    from one_peace.search.manifest import read_manifest

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(url)

    keep_freed_memory()
    with listen(settings.host, settings.port) as opened:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{opened.getsockname()[1]}"
        manifest = read_manifest(library)
        name = model or (manifest.model if manifest else DEFAULT_MODEL)
        writes = None if ofa is None else from_pretrained(ofa, device=device)
        if writes is not None and not isinstance(writes, Ofa):
            raise ValueError(f"{ofa} writes nothing: it is no OFA model but gives embeddings")
        service = Service(load_embedder(name, device), library, settings, name, writes)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes it on when it has finished
            Server(configuration(service)).run([opened])


def configuration(service: Service) -> uvicorn.Config:
    """How the application is served."""
    import uvicorn

    from one_peace.server.app import create_app
    from one_peace.server.connections import YieldingConnection, most_connections

    return uvicorn.Config(
        create_app(service),
        http=YieldingConnection,  # with h11: httptools takes headers of any length
        h11_max_incomplete_event_size=64 * 1024,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=30,
        limit_concurrency=most_connections(4 * service.settings.limits.in_flight),  # requests are bounded first
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `OSError` that says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(error.errno, f"port {port} of {host} is taken; choose another with --port") from error
        raise
