"""The log of a run: whole rows whatever the disk does, and what is damaged is named."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from one_peace.errors import InputError
from one_peace.training.log import RunLog, read_log


class FullNowAndThen:
    """A file on a disk that takes `room` bytes of a row, then nothing, until the next row."""

    def __init__(self, file: Any, room: list[int]) -> None:
        self.file, self.room, self.name = file, room, file.name

    def write(self, data: bytes) -> int:
        if not self.room:
            return self.file.write(data)
        taken = self.room.pop(0)
        if taken == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data[:taken])

    def close(self) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [[0], [5, 0], [5, 0, 0], [12, 3, 0]])
def test_rows_wait_for_a_disk_that_is_full(tmp_path: Path, room: list[int]) -> None:
    said: list[dict[str, Any]] = []
    with RunLog(tmp_path / "log.jsonl", 0, said.append) as log:
        log.file = FullNowAndThen(log.file, list(room))  # type: ignore[assignment]
        for step in range(1, 5):
            log.write({"step": step, "total": 1 / step})
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    warnings = [row["warning"] for row in said if "warning" in row]
    assert len(warnings) == 1 and "log.jsonl cannot be written (No space left on device)" in warnings[0]


def test_a_run_that_goes_on_takes_back_what_comes_after_its_state(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl", 0) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "total": float("nan")})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 4, "tot')
    with RunLog(tmp_path / "log.jsonl", 2) as log:
        log.write({"step": 3, "total": 0.5})
    assert read_log(tmp_path) == [{"step": 1, "total": None}, {"step": 2, "total": None}, {"step": 3, "total": 0.5}]


def test_rows_that_cannot_be_taken_back_stay_and_the_log_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLog(tmp_path / "log.jsonl", 0) as log:
        for step in (1, 2):
            log.write({"step": step, "total": 0.5})

    def full(path: Path, *_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with RunLog(tmp_path / "log.jsonl", 2):
        pass  # nothing to take back
    with pytest.raises(OSError, match=r"No space left on device: .*log.jsonl"):
        RunLog(tmp_path / "log.jsonl", 1)
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]


@pytest.mark.parametrize("damage", ["garbage", "[1]", '{"total": 1}', '{"step": "1"}', '{"step": -1}', "[" * 10**5])
def test_damaged_lines_are_named_and_empty_ones_passed_over(tmp_path: Path, damage: str) -> None:
    rows = ['{"step": 1, "total": 2.0}', "", '{"step": 2, "total": 1.0}']
    (tmp_path / "log.jsonl").write_text("\n".join(rows) + "\n")
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]
    (tmp_path / "log.jsonl").write_text("\n".join([rows[0], damage, *rows[1:]]) + "\n")
    with pytest.raises(InputError, match="line 2 is damaged"):
        read_log(tmp_path)


def test_steps_beyond_every_run_are_damage(tmp_path: Path) -> None:
    rows = [{"step": 10**400, "total": 1.0}, {"step": 1, "total": 1.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="line 1 is damaged"):
        read_log(tmp_path)
