"""A bar on stderr for work that takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def bar(what: str, shown: bool | None = None) -> Callable[[Iterator[T], int], Iterable[T]]:
    """Passes steps on, of a known total, and shows how many have been taken; by default where stderr is a terminal."""

    def track(steps: Iterator[T], total: int) -> Iterable[T]:
        if not total or not (sys.stderr.isatty() if shown is None else shown):
            return steps
        from rich.console import Console
        from rich.progress import track

        return track(steps, description=what, total=total, console=Console(stderr=True))

    return track
