"""How fast a run goes: what it takes in per second, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Throughput:
    """Rates since the last time they were asked for; evaluation and saving may be left out.

    `further` makes more figures of the seconds since then.
    """

    def __init__(
        self, steps: int, batch_size: int, first: int, further: Callable[[float], dict[str, float]] | None = None
    ) -> None:
        self.steps, self.batch_size, self.first, self.further = steps, batch_size, first, further
        self.began = self.since = time.monotonic()
        self.at = first

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as training time."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def rates(self, done: int) -> dict[str, float]:
        """The figures of a log row; every process has to ask.

        `seconds_left` goes by everything since the start, evaluations included.
        """
        now = time.monotonic()
        seconds = max(now - self.since, 1e-9)
        figures = {"pairs_per_second": round(self.batch_size * (done - self.at) / seconds, 1)}
        if self.further is not None:
            figures |= self.further(seconds)
        figures["seconds_left"] = round((now - self.began) * (self.steps - done) / (done - self.first), 1)
        self.since, self.at = time.monotonic(), done
        self.began += self.since - now  # counting the arithmetic takes a while the first time
        return figures
