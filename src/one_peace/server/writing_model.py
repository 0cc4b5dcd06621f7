"""The OFA model that says what pictures of the library show: one call at a time, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.processor import Box
from one_peace.server.batcher import OverloadedError

WAITING = 16  # calls that may wait for the model
SECONDS = 2.0  # after which one that is refused may try again


class WritingModel:
    """Captions and boxes, safe to call from any thread."""

    def __init__(self, ofa: Ofa) -> None:
        self._ofa = ofa
        self._thread = ThreadPoolExecutor(1, "ofa")
        self._waiting = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the model is called."""
        return self._ofa.config.name

    def describe(self, picture: Path) -> Future[str]:
        """What a picture shows. `OverloadedError` where too many wait; the future raises `InputError`."""
        return self._submit(self._ofa.caption, picture)

    def locate(self, picture: Path, phrase: str) -> Future[Box]:
        """Where in a picture a phrase is. Errors as of `describe`."""
        return self._submit(self._ofa.locate, picture, phrase)

    def close(self) -> None:
        """Finishes what was accepted."""
        self._thread.shutdown()

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with self._lock:
            if self._waiting >= WAITING:
                raise OverloadedError(SECONDS)
            self._waiting += 1
        future = self._thread.submit(work, *arguments)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1
