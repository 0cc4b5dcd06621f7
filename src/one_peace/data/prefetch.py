"""Worker processes that load batches ahead of training."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from one_peace.data.dropped import Collect, alone
from one_peace.data.loading import LoadedBatch, LoadingReport, Pair, PairLoader
from one_peace.errors import OnePeaceError
from one_peace.modalities.base import Example

AHEAD = 2  # batches that each worker prepares in advance
REAPING_SECONDS = 1.0  # in which the system tells of a dead process


@dataclass
class _Column:
    """The tensors under one key: all values in one row, and the shapes by the number of the example."""

    flat: Tensor
    shapes: dict[int, tuple[int, ...]]


@dataclass
class _Packed:
    """A batch in a few large tensors: each tensor that changes processes takes a file descriptor."""

    sides: list[dict[str, _Column]]  # texts and partners
    lengths: list[tuple[int, int]]
    failures: list[tuple[str, str]]


class PrefetchedPairs:
    """A `BatchSource` with workers: `batch(size, seed, step, rank, world)`.

    Steps asked for one after the other come from the workers, which work ahead; any other step starts them anew
    there, so a run resumes at any step. With 0 workers everything happens in the calling process. `close` stops the
    workers; so does the end of a `with` block. Padding is counted as of `micro_batch` pairs at once.
    """

    def __init__(self, loader: PairLoader, workers: int, micro_batch: int | None = None) -> None:
        self.loader, self.workers, self.micro_batch = loader, workers, micro_batch
        self.report = LoadingReport()
        self._steps: Iterator[LoadedBatch | OnePeaceError] | None = None
        self._processes: list[BaseProcess] = []
        self._next: tuple[int, int, int, int] | None = None  # size, step, rank, world
        self._closing = multiprocessing.Event()
        self._last: float | None = None  # when the batch before came

    def __enter__(self) -> PrefetchedPairs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def batch(self, size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> list[Pair]:
        """The slice of process `rank` of `world` of the global batch of a step: (text example, partner example).

        Raises:
            ValueError: another seed than the mixture's, or a batch that cannot be divided among the processes.
            OnePeaceError: nothing usable in a source, or a worker died.
        """
        if seed != self.loader.mixture.seed:
            raise ValueError(f"seed {seed}, but the data are mixed with seed {self.loader.mixture.seed}")
        if size % world:
            raise ValueError(f"a batch of {size} pairs cannot be divided among {world} processes")
        began = time.monotonic()
        if self.workers == 0:
            loaded = self.loader.load(size, step, rank, world)
        else:
            loaded = self._from_workers(size, step, rank, world)
        self.report.dropped.add(loaded.failures)
        self.report.padding.add(loaded.lengths, self.micro_batch)
        now = time.monotonic()
        self.report.waited += now - began
        self.report.elapsed += now - (self._last or began)
        self._last = now
        return loaded.pairs

    def summary(self, collect: Collect = alone) -> dict[str, Any]:
        """What there is to draw from, and what drawing has cost all processes so far."""
        pairs = {source.name: len(source) for source in self.loader.mixture.sources}
        report = LoadingReport.of_all(collect(self.report))
        if not report.elapsed:
            return pairs
        left_out: dict[str, Any] = {"left_out": report.dropped.total}
        if report.dropped.total:
            left_out["reasons"] = report.dropped.reasons
        return pairs | left_out | {"padding": round(report.padding.total, 3), "waiting": round(report.waiting, 3)}

    def totals(self, collect: Collect = alone) -> dict[str, float]:
        """What drawing has cost all processes so far, as numbers that `go_on` takes."""
        return LoadingReport.of_all(collect(self.report)).totals()

    def go_on(self, totals: Mapping[str, float]) -> None:
        """Counts on from these `totals`, of all processes."""
        self.report = LoadingReport.from_totals(totals)

    def close(self) -> None:
        """Stops the workers; the next `batch` starts new ones."""
        self._closing.set()
        self._steps, self._next = None, None

    def _from_workers(self, size: int, step: int, rank: int, world: int) -> LoadedBatch:
        if self._next != (size, step, rank, world):
            self.close()
            self._steps = self._start(size, step, rank, world)
        assert self._steps is not None
        try:
            loaded = next(self._steps)
        except (RuntimeError, ConnectionError, EOFError) as error:  # also of a worker that died in mid-message
            died = self._dead_workers()
            self.close()
            if died:
                raise OnePeaceError(
                    f"a data worker died ({died}). The system kills workers when memory runs out: use fewer of them "
                    "or smaller batches; the run goes on from its last checkpoint when started again"
                ) from error
            raise
        if isinstance(loaded, OnePeaceError):
            self.close()
            raise loaded
        self._next = (size, step + 1, rank, world)
        return loaded

    def _dead_workers(self) -> str:
        """Which workers died, and of what; empty while all of them live."""
        closed = wait([process.sentinel for process in self._processes], REAPING_SECONDS)
        died = []
        for process in self._processes:
            if process.sentinel in closed:
                process.join(REAPING_SECONDS)  # its pipes close a moment before it is gone
                died.append(f"process {process.pid}: {_cause(process.exitcode)}")
        return ", ".join(died)

    def _start(self, size: int, step: int, rank: int, world: int) -> Iterator[LoadedBatch | OnePeaceError]:
        self._closing.clear()
        others = set(multiprocessing.active_children())
        with _no_errors_from_signals():
            batches = iter(
                DataLoader(
                    _Steps(self.loader, size, rank, world),
                    batch_size=None,
                    sampler=_StepsFrom(step),
                    num_workers=self.workers,
                    prefetch_factor=AHEAD,
                    worker_init_fn=partial(_outlive_sigterm, self._closing),
                    generator=torch.Generator(),  # by default it would draw from the generator of the training
                )
            )
        self._processes = [process for process in multiprocessing.active_children() if process not in others]
        return (_unpack(b) if isinstance(b, _Packed) else b for b in batches)


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    return f"signal {-exit_code}, {signal.strsignal(-exit_code)}"


@contextmanager
def _no_errors_from_signals() -> Iterator[None]:
    """Takes away the handler by which PyTorch tells of dead workers. It raises wherever the program is just then: in
    the middle of a step or of a save, or where Python only prints errors (finalizers), and that error is lost. The
    next batch tells of them all the same."""
    if threading.current_thread() is not threading.main_thread():  # where PyTorch sets none
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _outlive_sigterm(closing: Event, worker: int) -> None:
    """In a worker: SIGTERM, which a scheduler sends to every process, ends it only once the run wants no more batches.
    Until then the run needs them, to finish its step and to save."""

    def end(*_: object) -> None:
        if closing.is_set():
            os._exit(0)

    signal.signal(signal.SIGTERM, end)


class _StepsFrom:
    """The endless sampler of steps."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


class _Steps(Dataset[_Packed]):
    """A step's number -> its batch; errors for users come back as values, which keeps their message as it is."""

    def __init__(self, loader: PairLoader, size: int, rank: int, world: int) -> None:
        self.loader, self.size, self.rank, self.world = loader, size, rank, world

    def __getitem__(self, step: int) -> _Packed | OnePeaceError:  # type: ignore[override]
        try:
            loaded = self.loader.load(self.size, step, self.rank, self.world)
        except OnePeaceError as error:
            return error.with_traceback(None)
        return _pack(loaded)


def _pack(batch: LoadedBatch) -> _Packed:
    sides = list(zip(*batch.pairs, strict=True))
    return _Packed([_pack_side(side) for side in sides], batch.lengths, batch.failures)


def _pack_side(examples: Sequence[Example]) -> dict[str, _Column]:
    """The tensors of each key one after the other; of any shapes, and not every example needs to have the key."""
    columns: dict[str, _Column] = {}
    for key in dict.fromkeys(key for example in examples for key in example):
        tensors = {number: example[key] for number, example in enumerate(examples) if key in example}
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
        columns[key] = _Column(flat, {number: tuple(tensor.shape) for number, tensor in tensors.items()})
    return columns


def _unpack(packed: _Packed) -> LoadedBatch:
    sides = [_unpack_side(side, len(packed.lengths)) for side in packed.sides]
    return LoadedBatch(list(zip(*sides, strict=True)), packed.lengths, packed.failures)


def _unpack_side(side: dict[str, _Column], count: int) -> list[Example]:
    examples: list[Example] = [{} for _ in range(count)]
    for key, column in side.items():
        parts = column.flat.split([math.prod(shape) for shape in column.shapes.values()])
        for (number, shape), part in zip(column.shapes.items(), parts, strict=True):
            examples[number][key] = part.view(shape)
    return examples
