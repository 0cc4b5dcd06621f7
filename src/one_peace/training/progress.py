"""What a person sees of a run: a live line on a terminal, a plain line per report elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
WIDTH = 24  # of the bar


class Progress:
    """Takes a run's reports and the number of its steps. On a terminal the newest figures stay at the bottom.

    `seconds` is the clock, which tests replace.
    """

    def __init__(self, steps: int, console: Console | None = None, seconds: Any = time.time) -> None:
        self.steps, self.done, self.seconds = steps, 0, seconds
        self.row: Row = {}
        self.console = console or Console(file=sys.stdout, highlight=False)
        self.live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def tick(self, done: int) -> None:
        """This many steps are done."""
        self.done = done
        if self.console.is_terminal and self.live is None:
            self.live = Live(self, console=self.console, refresh_per_second=2)
            self.live.start()

    def report(self, row: Row) -> None:
        """Shows a row of the log, or anything else that there is to report."""
        if not self.console.is_terminal:
            print(plain_line(row), flush=True)
        elif "total" in row:
            self.row = row
        else:
            self.console.print(plain_line(row), highlight=False, markup=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = Table.grid(padding=(0, 1))
        share = f"{100 * self.done / max(self.steps, 1):.1f} %"
        end = expected_end(self.row.get("seconds_left"), self.seconds())
        head.add_row(f"{self.done}/{self.steps}", ProgressBar(self.steps, self.done, width=WIDTH), share, end)
        yield Group(head, Text(" | ".join(figures(self.row))))


def plain_line(row: Row) -> str:
    """`key value  key value`, for logs and pipes; minus zero is zero."""
    return "  ".join(
        f"{key} {value + 0.0:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def figures(row: Row) -> Iterable[str]:
    """The figures of a log row in a few words each, the loss with its parts first."""

    def number(name: str, form: str = ".3g", factor: float = 1.0) -> str:
        value = row[name]
        return "not finite" if value is None else format(factor * value, form)

    if "total" in row:
        parts = [
            f"{name.removeprefix('denoise_')} {number(name, '.3f')}"
            for name in row
            if name == "contrast" or name.startswith("denoise_") or "/" in name  # of a source
        ]
        yield f"loss {number('total', '.3f')} ({', '.join(parts)})"
    for name, text, form, factor, unit in (
        ("lr", "lr", ".2e", 1.0, ""),
        ("grad_norm", "gradient", ".3g", 1.0, ""),
        ("pairs_per_second", "", ",.0f", 1.0, " pairs/s"),
        ("tokens_per_second", "", ",.0f", 1.0, " tokens/s"),
        ("mfu", "MFU", ".1f", 100.0, " %"),
        ("waiting", "waiting for data", ".1f", 100.0, " %"),
        ("skipped", "skipped", "d", 1, ""),
    ):
        if name in row:
            yield f"{text} {number(name, form, factor)}{unit}".strip()


def expected_end(seconds_left: float | None, now: float) -> str:
    """`ends Tue 14:05 (in 3 h 20 min)`; empty before it is known."""
    if seconds_left is None:
        return ""
    minutes = math.ceil(seconds_left / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    left = f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
    return f"ends {time.strftime('%a %H:%M', time.localtime(now + seconds_left))} (in {left})"
