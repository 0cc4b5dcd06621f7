"""Servers on loopback that tests answer from themselves."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

Served = TypeVar("Served", bound=socketserver.BaseServer)


@contextmanager
def running(server: Served) -> Iterator[Served]:
    """The server at work in a thread, and closed afterwards."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
