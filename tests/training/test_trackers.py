"""Trackers: what was logged can be read back from what they write, also after a run was taken back."""

from __future__ import annotations

import errno
import json
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from one_peace.errors import MissingExtraError
from one_peace.training.trackers import TRACKERS, open_trackers, require_trackers

RECIPE = {"model": "tiny", "steps": 4, "optimizer": {"betas": [0.9, 0.98]}, "files": {}}


def record(name: str, out: Path, first: int, *steps: int) -> None:
    out.mkdir(exist_ok=True)
    with open_trackers([name], out, RECIPE, first) as trackers:
        for step in steps:
            trackers[0].log(step, {"total": step / 2, "eval/x@1": 0.1 * step})


def test_tensorboard_events_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record("tensorboard", tmp_path, 0, 1, 2, 3)
    record("tensorboard", tmp_path, 2, 3, 4)  # goes on from the state of step 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/total", "eval/x_at_1"}
    assert [(e.step, e.value) for e in events.Scalars("train/total")] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]


def wandb_records(file: Path) -> Iterator[bytes]:
    """What a .wandb file holds: a LevelDB log of records, each with checksum, length and kind, in blocks of 32 KB."""
    data, place, record = file.read_bytes(), 7, b""  # after a header
    while place + 7 < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    for variable, value in (("MODE", "offline"), ("SILENT", "true"), ("CACHE_DIR", str(tmp_path / "cache"))):
        monkeypatch.setenv(f"WANDB_{variable}", value)
    run = tmp_path / "run"
    record("wandb", run, 0, 1, 2)
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    assert (run / "tracker-id").read_text().strip() in file.name
    rows = []
    for data in wandb_records(file):
        message = wandb_internal_pb2.Record()
        message.ParseFromString(data)
        if message.HasField("history"):
            items = message.history.item
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
    assert [(row["step"], row["train/total"], row["eval/x@1"]) for row in rows] == [(1, 0.5, 0.1), (2, 1.0, 0.2)]


def test_trackio_keeps_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(sys.modules[SQLiteStorage.__module__], "TRACKIO_DIR", tmp_path / "trackio")
    record("trackio", tmp_path / "run", 0, 1, 2)
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    assert [(step, json.loads(values)["train/total"]) for step, values in rows] == [(1, 0.5), (2, 1.0)]


@pytest.mark.parametrize("when", ["open", "log", "close"])
def test_a_full_disk_ends_a_tracker_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    logged = []

    class Full:
        def __init__(self, *_: object) -> None:
            self.fail("open")

        def fail(self, now: str) -> None:
            logged.append(now)
            if now == when:
                raise OSError(errno.ENOSPC, "No space left on device")

        def log(self, *_: object) -> None:
            self.fail("log")

        def close(self) -> None:
            self.fail("close")

    monkeypatch.setitem(TRACKERS, "tensorboard", Full)  # type: ignore[arg-type]
    with open_trackers(["tensorboard"], tmp_path, RECIPE, 0) as trackers:
        for step in (1, 2):
            for tracker in trackers:
                tracker.log(step, {"total": 1.0})
    assert logged == {"open": ["open"], "log": ["open", "log", "close"], "close": ["open", "log", "log", "close"]}[when]
    (warning,) = caplog.messages
    assert "tensorboard failed" in warning and "No space left on device" in warning


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_what_tensorboard_cannot_write_is_an_error_of_the_call(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = TRACKERS["tensorboard"](tmp_path, RECIPE, 0)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        tracker.records = type(tracker.records)(full)  # type: ignore[attr-defined]
        tracker.log(1, {"total": 1.0})


@pytest.mark.parametrize(("name", "extra"), [("tensorboard", "train"), ("wandb", "wandb"), ("trackio", "trackio")])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    hidden = [name, "tensorboard.compat.proto.event_pb2"] if name == "tensorboard" else [name]
    for module in hidden:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"trackers: {name} needs .* pip install 'one-peace\[{extra}\]'"):
        TRACKERS[name](tmp_path, RECIPE, 0)
    monkeypatch.setattr("one_peace.training.trackers.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"one-peace\[{extra}\]"):
        require_trackers([name])
