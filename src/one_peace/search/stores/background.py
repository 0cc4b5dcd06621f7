"""Work that goes on while its caller does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from one_peace.search.stores.base import StoreError


class Background:
    """Runs `work` in a thread, once at a time. A program that ends waits for it. `name` is for error messages."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work, self._name = work, name
        self._lock = Lock()
        self._running: Future[None] | None = None
        self._again = False

    def start(self) -> None:
        """Has the work done; once more, if it is under way, since it may have missed what came meanwhile."""
        with self._lock:
            if self._running is not None and not self._running.done():
                self._again = True
                return
            pool = ThreadPoolExecutor(1, thread_name_prefix="upkeep")
            self._running = pool.submit(self._run)
            pool.shutdown(wait=False)  # the thread ends with the work

    def wait(self) -> None:
        """Until it is done.

        Raises:
            StoreError: it failed. Said once.
        """
        with self._lock:
            running = self._running
        if running is None:
            return
        error = running.exception()
        with self._lock:
            if self._running is running:
                self._running = None
        if error is not None:
            raise StoreError(f"{self._name}: the work on indexes failed: {error}") from error

    def _run(self) -> None:
        while True:
            with self._lock:
                self._again = False
            self._work()
            with self._lock:
                if not self._again:
                    return
