"""Processes that decode for the service: a codec that crashes, hangs or swells takes down one of them alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from one_peace.errors import InputError
from one_peace.modalities.base import Processor
from one_peace.modalities.imports import imported_modalities
from one_peace.server.decoding import serve_decoding
from one_peace.server.encoder import Prepared
from one_peace.server.settings import Limits

_START = 120  # seconds that a process may take to import what it needs


class Decoders:
    """A fixed number of decoding processes, each with a thread here that feeds it.

    A process that does not answer within `limits.decode_seconds` is killed and replaced.
    """

    def __init__(self, processors: Mapping[str, Processor], limits: Limits, count: int = 2) -> None:
        # Processors of a user's own can be unpickled only where their files have been imported.
        self._arguments = imported_modalities(), pickle.dumps(dict(processors)), limits
        self._seconds = limits.decode_seconds
        self._jobs: queue.SimpleQueue[tuple[str, bytes | Path, Future[Prepared]] | None] = queue.SimpleQueue()
        self._closed = False
        self._started = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._feed, name=f"decoder-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Returns when the processes have started."""
        for _ in self._threads:
            self._started.acquire()
        self._started.release(len(self._threads))

    def submit(self, modality: str, source: bytes | Path) -> Future[Prepared]:
        """The decoded input, or `InputError` if it cannot be used.

        Of a path, `modality` is the kind of file; it is read as the library would, and no views come out.
        """
        if self._closed:
            raise RuntimeError("the service is shutting down")
        future: Future[Prepared] = Future()
        self._jobs.put((modality, source, future))
        return future

    def close(self) -> None:
        """Finishes what was submitted and ends the processes."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _feed(self) -> None:
        worker: _Worker | None = None
        with contextlib.suppress(OSError, EOFError):  # then the first job finds that out
            worker = self._ready(None)
        self._started.release()
        while (job := self._jobs.get()) is not None:
            modality, source, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                worker = self._ready(worker)
            except (OSError, EOFError) as error:  # no memory or files left for it: no fault of the input
                worker = None
                future.set_exception(OSError(f"no decoding process can be started: {error}"))
                continue
            try:
                kind, answer = worker.ask((modality, source), self._seconds)
            except (TimeoutError, EOFError, OSError) as error:
                worker.kill()
                what = f"took longer than {self._seconds:g} s" if isinstance(error, TimeoutError) else "failed"
                future.set_exception(InputError(f"the {modality}", f"decoding it {what}"))
                with contextlib.suppress(OSError):  # then the next job finds that out
                    worker = _Worker(self._arguments)
                continue
            except Exception as error:
                future.set_exception(error)
                continue
            if kind == "error":
                future.set_exception(answer)
            else:
                views = [{key: torch.from_numpy(array) for key, array in view.items()} for view in answer]
                future.set_result(Prepared(views))
        if worker is not None:
            worker.stop()

    def _ready(self, worker: _Worker | None) -> _Worker:
        """A process that waits for jobs: this one, or another in place of one that has ended since it was last asked.

        Raises:
            OSError, EOFError: there can be none.
        """
        if worker is None or worker.has_ended:
            if worker is not None:
                worker.kill()  # closes the pipe
            worker = _Worker(self._arguments)
        try:
            worker.wait()
        except (OSError, EOFError):
            worker.kill()
            raise
        return worker


class _Worker:
    def __init__(self, arguments: tuple[Any, ...]) -> None:
        # Not forked: a fork of a process with threads may inherit locks that nobody will release.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # What it needs goes through our pipe, which breaks where a process ends while it starts. That which Python
        # hands arguments over by does not, and takes no more than 64 KiB before somebody reads it.
        self._arguments = arguments
        self._process = context.Process(target=serve_decoding, args=(theirs,), daemon=True)
        with theirs:  # closed here, so that the end of the process is the end of the pipe
            self._process.start()
        self._ready = False

    @property
    def has_ended(self) -> bool:
        """Whether it was killed, by us or by the system."""
        return not self._process.is_alive()

    def wait(self) -> None:
        """Returns when the process has started; `OSError` or `EOFError` if it does not."""
        if not self._ready:
            self._connection.send(self._arguments)
            if not self._connection.poll(_START):
                raise OSError("a decoding process did not start")
            self._connection.recv()
            self._ready = True

    def ask(self, job: tuple[str, bytes | Path], seconds: float) -> tuple[str, Any]:
        """Raises `TimeoutError`, or `EOFError` or `OSError` when the process has died."""
        connection: Connection = self._connection
        connection.send(job)
        if not connection.poll(seconds):
            raise TimeoutError
        answer: tuple[str, Any] = connection.recv()
        return answer

    def stop(self) -> None:
        if self._ready:
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._process.join(5)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
