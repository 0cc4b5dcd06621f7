"""A bar for commands that take long, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def bar(what: str) -> Callable[[Iterator[T], int], Iterable[T]]:
    """Passes steps on, of a known total, and shows on stderr how many have been taken."""

    def track(steps: Iterator[T], total: int) -> Iterable[T]:
        if not sys.stderr.isatty():
            return steps
        from rich.console import Console
        from rich.progress import track

        return track(steps, description=what, total=total, console=Console(stderr=True))

    return track
