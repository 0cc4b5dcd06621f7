"""`log.jsonl`: a line of JSON per report of a run, written by its first process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from one_peace.atomic_files import write_whole
from one_peace.errors import InputError
from one_peace.training.distributed import Processes
from one_peace.training.trackers import Tracker

LOG = "log.jsonl"
LAST_STEP = 2**53  # a number beyond is damage: floats, and so pictures, cannot tell it from its neighbours

Report = Callable[[dict[str, Any]], None]
Row = dict[str, Any]


class RunLog:
    """Writes rows to the log file, the report and the trackers. Rows that a killed run wrote after its last state are
    removed."""

    def __init__(
        self,
        path: Path,
        first: int,
        report: Report | None = None,
        trackers: Sequence[Tracker] = (),
        processes: Processes | None = None,
    ) -> None:
        self.report, self.trackers = report, trackers
        self.file = None
        self.pending = b""  # rows that a full disk did not take
        if processes is None or processes.first:
            if path.exists():
                _cut(path, first)
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """One line; a number that is not finite becomes null, which JSON can say."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        if self.file is None:
            return
        waited = bool(self.pending)
        self.pending += json.dumps(clean).encode() + b"\n"
        if (problem := self._append()) and not waited:
            self.warn(row["step"], problem)
        if self.report:
            self.report(clean)
        for tracker in self.trackers:
            tracker.log(row["step"], {k: v for k, v in clean.items() if k != "step" and v is not None})

    def _append(self) -> str | None:
        """Writes what is pending -> the problem, if there was one: the rest then waits for the next row."""
        assert self.file is not None
        try:
            while self.pending:
                self.pending = self.pending[self.file.write(self.pending) :]
        except OSError as error:
            return f"{self.file.name} cannot be written ({error.strerror}); its rows follow when it can"
        return None

    def warn(self, step: int, problem: str | None) -> None:
        """Reports a failed save; training goes on."""
        if problem and self.file is not None and self.report:
            self.report({"step": step, "warning": problem})


def read_log(path: Path) -> list[Row]:
    """The rows of a run's log; `path` is the file or the run folder. A last line that was cut off is left out.

    Raises:
        InputError: there is no log, it has no rows yet, or a line in it is no row.
    """
    file = path / LOG if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        what = f"has no {LOG}; give the folder of a training run" if path.is_dir() else "no such run folder or log"
        raise InputError(str(path), what) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise InputError(str(file), f"line {number} is damaged, it is no row of a log: {line[:60]!r}")
    if not rows:
        raise InputError(str(file), "has no rows yet; the first one comes after `log_every` steps")
    return rows


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int) and 0 <= row["step"] < LAST_STEP
    return row if whole else None


def _cut(path: Path, step: int) -> None:
    """Keeps the rows up to `step`; what was computed after it will be computed again."""
    kept = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        row = _parse(line)  # None: the last line of a killed process
        if row is not None and row["step"] <= step:
            kept.append(line + "\n")
    if "".join(kept) != text:
        write_whole(path, "".join(kept).encode())
