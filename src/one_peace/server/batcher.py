"""Batches of all clients' inputs: by modality and length, when the model is free for them."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from one_peace.errors import OnePeaceError
from one_peace.modalities.base import Example

# What a batch costs whatever is in it, in tokens. Measured with the smallest preset on a CPU, where it counts most:
# 7 ms a batch, 0.15 ms a token.
OVERHEAD = 48
LINGER = 0.002  # seconds that a batch is held open for others, when others were there a moment ago
_SLOWEST = 0.01  # seconds a token that are assumed of a modality before its first batch


class OverloadedError(OnePeaceError):
    """The service cannot answer within the waiting time that it promises."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(f"too many requests wait already; try again in {self.retry_after} s")


@dataclass(eq=False)
class _Job:
    modality: str
    example: Example
    length: int
    future: Future[np.ndarray] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """One thread that runs the model for everybody.

    The oldest input decides the modality of the next batch; inputs of similar length join it as long as padding costs
    less than a batch of their own would, up to `max_tokens`. While a batch runs the next one fills: no input
    waits for a timer under load, and a lone one waits for nobody.

    Args:
        embed: (modality, examples) -> (n, dim) float32; called in one thread only.
        length: (modality, example) -> tokens.
        max_tokens: of a batch, padding included.
        max_wait: see `admit`, in seconds.
        observe: called after each batch with its modality, its size and the seconds it took.
    """

    def __init__(
        self,
        embed: Callable[[str, list[Example]], np.ndarray],
        length: Callable[[str, Example], int],
        *,
        max_tokens: int = 1024,
        max_wait: float = 10.0,
        observe: Callable[[str, int, float], None] = lambda modality, size, seconds: None,
    ) -> None:
        self._embed, self._length = embed, length
        self._max_tokens, self._max_wait, self._observe = max_tokens, max_wait, observe
        self._queues: dict[str, deque[_Job]] = {}
        self._tokens: dict[str, int] = {}  # waiting, by modality
        self._pace: dict[str, float] = {}  # seconds a token, by modality; a batch counts as OVERHEAD more
        self._changed = threading.Condition()
        self._crowded = self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def admit(self) -> None:
        """Raises `OverloadedError` if an input that came now would wait longer than `max_wait`."""
        if (seconds := self.delay()) > self._max_wait:
            raise OverloadedError(seconds - self._max_wait / 2)

    def delay(self) -> float:
        """Seconds that the inputs now waiting will take."""
        with self._changed:
            waiting = [(name, tokens) for name, tokens in self._tokens.items() if tokens]
            return sum((tokens + OVERHEAD) * self._pace.get(name, _SLOWEST) for name, tokens in waiting)

    def waiting(self) -> dict[str, int]:
        """Inputs that wait, by modality."""
        with self._changed:
            return {name: len(queue) for name, queue in self._queues.items()}

    def submit(self, modality: str, examples: Sequence[Example]) -> list[Future[np.ndarray]]:
        """A future of each example's embedding, (dim,) float32. Cancelling one takes it off the queue.

        Raises:
            RuntimeError: the batcher is closed.
        """
        jobs = [_Job(modality, example, self._length(modality, example) + 1) for example in examples]
        with self._changed:
            if self._closed:
                raise RuntimeError("the service is shutting down")
            self._queues.setdefault(modality, deque()).extend(jobs)
            self._tokens[modality] = self._tokens.get(modality, 0) + sum(job.length for job in jobs)
            self._changed.notify()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Finishes what was submitted, then ends the thread. Nothing can be submitted from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            name = batch[0].modality
            try:
                vectors = self._embed(name, [job.example for job in batch])
            except Exception as error:  # the clients' to see; the thread serves others
                for job in batch:
                    job.future.set_exception(error)
                continue
            for job, vector in zip(batch, vectors, strict=True):
                job.future.set_result(vector)
            seconds = time.perf_counter() - started
            pace = seconds / (OVERHEAD + sum(job.length for job in batch))
            with self._changed:
                self._pace[name] = 0.8 * self._pace.get(name, pace) + 0.2 * pace
            self._observe(name, len(batch), seconds)

    def _next(self) -> list[_Job]:
        """The next batch; empty when there will be none any more."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
                filled = [queue for queue in self._queues.values() if queue]
                if not filled:
                    return []
                queue = min(filled, key=lambda queue: queue[0].arrived)
                left = queue[0].arrived + LINGER - time.monotonic()
                if left > 0 and self._crowded and not self._closed:
                    self._changed.wait(left)
                    continue
                batch = self._take(queue)
                if batch:  # all may have been cancelled meanwhile
                    self._crowded = len(batch) > 1
                    return batch

    def _take(self, queue: deque[_Job]) -> list[_Job]:
        chosen = group(queue, self._max_tokens)
        taken = set(chosen)
        rest = [job for job in queue if job not in taken]
        queue.clear()
        queue.extend(rest)
        self._tokens[chosen[0].modality] -= sum(job.length for job in chosen)
        return [job for job in chosen if job.future.set_running_or_notify_cancel()]


def group(queue: Sequence[_Job], max_tokens: int) -> list[_Job]:
    """The oldest job and those that share its batch.

    Nearest lengths first: a job joins as long as the padding that it brings, to itself or to the others, costs less
    than the batch that it saves.
    """
    oldest = queue[0]
    batch, longest, real = [oldest], oldest.length, oldest.length
    others = sorted(list(queue)[1 : 4 * max_tokens], key=lambda job: abs(job.length - oldest.length))
    for job in others:
        width = max(longest, job.length)
        padded = width * (len(batch) + 1)
        padding = padded - real - job.length - (longest * len(batch) - real)
        if padded > max_tokens or padding > OVERHEAD:
            continue
        batch.append(job)
        longest, real = width, real + job.length
    return batch
