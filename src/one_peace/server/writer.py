"""One thread that writes to the library for everybody; what came in while it wrote goes into one commit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.errors import InputError
from one_peace.search.library import Library
from one_peace.server.batcher import OverloadedError
from one_peace.server.uploads import Uploads

_MOST_WAITING = 512  # files; above it uploads are refused for a while
_COMMIT = 64  # files


@dataclass(eq=False)
class _Add:
    path: Path
    caption: str
    tags: tuple[str, ...]
    future: Future[str] = field(default_factory=Future)


@dataclass(eq=False)
class _Remove:
    id: str
    future: Future[None] = field(default_factory=Future)


_PAUSE = object()  # in place of a task when there is none


class Writer:
    """Adds and removes items. A future is done when the change is on disk and searches see it.

    `commits` counts the writes so far.
    """

    def __init__(self, library: Library, uploads: Uploads) -> None:
        self._library, self._uploads = library, uploads
        self._tasks: queue.Queue[_Add | _Remove | None] = queue.Queue()
        self._closed = False
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def add(self, path: Path, caption: str = "", tags: Sequence[str] = ()) -> Future[str]:
        """The id of the item that a file becomes, or that it is already.

        The future may raise `InputError` (the file cannot be used) and what `Library.add` raises.

        Raises:
            OverloadedError: too many files wait.
        """
        self.admit()
        return self._put(_Add(path, caption, tuple(tags))).future

    def remove(self, id: str) -> Future[None]:
        """Removes an item, and its file if it was uploaded. The future may raise `UnknownItemError`: there is none."""
        return self._put(_Remove(id)).future

    def admit(self) -> None:
        """Raises `OverloadedError` when too many files wait."""
        if self._tasks.qsize() >= _MOST_WAITING:
            raise OverloadedError(5.0)

    def close(self) -> None:
        """Finishes what was accepted; nothing is accepted from now on."""
        self._closed = True
        self._tasks.put(None)
        self._thread.join()

    def _put(self, task: Any) -> Any:
        if self._closed:
            raise RuntimeError("the service is shutting down")
        self._tasks.put(task)
        return task

    def _run(self) -> None:
        adds: list[_Add] = []
        while True:
            try:
                task: object = self._tasks.get(block=not adds)  # never waits while there is something to commit
            except queue.Empty:
                task = _PAUSE
            if isinstance(task, _Add):
                adds.append(task)
                if len(adds) < _COMMIT:
                    continue
            if adds:
                self._added(adds)
                adds = []
            if isinstance(task, _Remove):
                self._removed(task)
            elif task is None:
                return

    def _added(self, batch: list[_Add]) -> None:
        batch = [task for task in batch if task.future.set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            report = self._library.add([(task.path, task.caption, task.tags) for task in batch], progress=False)
        except Exception as error:  # each client's to see; the thread serves others
            for task in batch:
                self._failed(task, error)
            return
        self.commits += 1
        for task in batch:
            path = str(task.path)
            if path in report.items:
                task.future.set_result(report.items[path])
            else:
                problem = report.problems.get(path, "could not be taken in")
                task.future.set_exception(InputError(task.path.name, problem))

    def _failed(self, task: _Add, error: Exception) -> None:
        """Tells a client of an error, unless its file was in an earlier commit of the batch: that one is kept."""
        try:
            kept = self._library.find(task.path)
        except Exception:  # the library cannot be read any more: the error at hand says why
            kept = None
        if kept is None:
            task.future.set_exception(error)
        else:
            self.commits += 1
            task.future.set_result(kept.id)

    def _removed(self, task: _Remove) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            path = self._library.content(task.id)
            self._library.remove([task.id])
            self.commits += 1
            self._uploads.drop(path)
        except Exception as error:
            task.future.set_exception(error)
        else:
            task.future.set_result(None)
