"""What runs of training leave in their folders, for tests to compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CLOCKS = ("pairs_per_second", "seconds_left")

Report = Callable[[dict[str, Any]], None]


def log_of(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def untimed_log(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's log without what a clock says."""
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in log_of(out)]


def interrupt_at(step: int) -> Report:
    """A report to hand to a run, which stops it after this update."""

    def report(row: dict[str, Any]) -> None:
        if row.get("step") == step:
            raise KeyboardInterrupt

    return report


def check_continues(run: Callable[[Path, Report], Any], folder: Path, step: int) -> None:
    """That a run which is stopped after an update and begun again leaves to the bit what one in a piece does."""
    run(folder / "whole", lambda row: None)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "cut", interrupt_at(step))
    run(folder / "cut", lambda row: None)
    assert untimed_log(folder / "cut") == untimed_log(folder / "whole")
    for name in ("best", "model"):
        files = [folder / out / name / "model.safetensors" for out in ("cut", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes()
