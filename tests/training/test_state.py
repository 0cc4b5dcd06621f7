"""Saved states: killed, stopped, full disk, another model; nothing saved is lost and the curve goes on."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter

from one_peace.data.lock import FolderBusyError, writer_lock
from one_peace.errors import CheckpointError
from one_peace.models.one_peace.config import DecoderConfig
from one_peace.training.loop import LOCK
from one_peace.training.pretraining.pretrain import pretrain
from run_folders import log_of
from tiny_models import CONFIG, tiny_model
from training_runs import GO_ON, PROCESSORS, RECIPE, batches, curve_of, fresh, read_state, start, wait_for
from warm_processes import finish

LONG = ("steps=12", "save_every=2", "batch_size=4")

pytestmark = pytest.mark.xdist_group("state")  # `whole` is made once


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run, with an average."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = dataclasses.replace(
        RECIPE, steps=12, batch_size=4, optimizer=dataclasses.replace(RECIPE.optimizer, ema_decay=0.9)
    )
    pretrain(fresh(), recipe, PROCESSORS, batches, folder)
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    assert curve_of(folder) == curve_of(whole)
    ours, expected = read_state(folder), read_state(whole)
    assert ours.keys() == expected.keys()
    assert not [name for name, value in ours.items() if not torch.equal(value, expected[name])]


def test_a_run_killed_at_random_moments_has_the_same_curve(tmp_path: Path, whole: Path) -> None:
    moments = random.Random(0)
    for kill in range(2):
        started = start(tmp_path, "slowly", (*LONG, "optimizer.ema_decay=0.9"))
        rows = 3 * kill + moments.randint(1, 2)
        wait_for(tmp_path / "log.jsonl", started, f'"step": {rows},')
        time.sleep(moments.uniform(0, 0.3))  # in the middle of a step or of a save
        started[0].kill()
        assert started[0].wait() == -signal.SIGKILL
    finish(start(tmp_path, "batches", (*LONG, "optimizer.ema_decay=0.9")))
    assert_same_run(tmp_path, whole)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000012"]


def test_sigterm_saves_and_ends_well(tmp_path: Path, whole: Path) -> None:
    settings = (*LONG, "optimizer.ema_decay=0.9", "save_every=100")
    started = start(tmp_path, "slowly", settings)
    wait_for(tmp_path / "log.jsonl", started, '"step": 2,')
    started[0].terminate()
    (tmp_path / GO_ON).touch()
    finish(started)
    assert 2 <= read_state(tmp_path)["step"] < 12
    assert len(log_of(tmp_path)) == read_state(tmp_path)["step"]
    finish(start(tmp_path, "batches", settings))
    assert_same_run(tmp_path, whole)


def test_a_stopped_run_says_how_far_it_came(tmp_path: Path) -> None:
    def stopping(batch: int, seed: int, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(batch, seed, step)

    said: list[dict[str, Any]] = []
    recipe = dataclasses.replace(RECIPE, steps=6)
    assert pretrain(fresh(), recipe, PROCESSORS, stopping, tmp_path, report=said.append) == 3
    assert said[-1] == {"step": 3, "warning": "stopped by SIGTERM after 3 of 6 updates; the same command goes on"}
    assert pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path, report=said.append) == 6
    assert not any("stopped" in row.get("warning", "") for row in said[-3:])


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with writer_lock(tmp_path / LOCK), pytest.raises(FolderBusyError, match="is writing to it"):
        pretrain(fresh(), RECIPE, PROCESSORS, batches, tmp_path)
    assert not (tmp_path / "state").exists() and not (tmp_path / "log.jsonl").exists()
    assert pretrain(fresh(), dataclasses.replace(RECIPE, steps=1), PROCESSORS, batches, tmp_path) == 1


def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    """For some seconds after a `kill -9`; whoever restarts the run at once was told to wait for it."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    with writer_lock(tmp_path / LOCK):
        worker = context.Process(target=_work_on, args=(begun,), daemon=True)
        worker.start()
        begun.wait()
    with writer_lock(tmp_path / LOCK):
        worker.kill()
    worker.join()


def _work_on(begun: Any) -> None:
    begun.set()
    time.sleep(60)


def test_what_an_interrupted_save_left_is_ignored_and_removed(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=3)
    pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)
    (tmp_path / "state" / "partial-00000004").mkdir()
    (tmp_path / "state" / "partial-00000004" / "__0_0.distcp").write_bytes(b"half")
    with open(tmp_path / "log.jsonl", "a") as log:
        log.write('{"step": 4, "total": 1.0}\n{"step": 5, "to')
    assert pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path) == 3
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000003"]
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3]


def test_no_room_for_a_state_costs_nothing_saved(tmp_path: Path, whole: Path) -> None:
    """The system itself refuses to write more, in the middle of a state."""
    settings = (*LONG, "optimizer.ema_decay=0.9")
    started = start(tmp_path, "slowly", settings)
    wait_for(tmp_path / "log.jsonl", started, '"step": 5,')
    resource.prlimit(started[0].pid, resource.RLIMIT_FSIZE, (100_000, 100_000))  # bytes of a file
    (tmp_path / GO_ON).touch()
    assert started[0].wait() != 0
    errors = started[0].errors()
    assert "the state of step 12 could not be saved (" in errors and "File too large" in errors
    assert "is kept. Make room and run the same command again" in errors
    assert 2 <= read_state(tmp_path)["step"] <= 6
    finish(start(tmp_path, "batches", settings))
    assert_same_run(tmp_path, whole)


class FullDisk:
    """Lets so many saves through, then half of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, good: int) -> None:
        self.good, write = good, FileSystemWriter.write_data

        def writing(writer: Any, plan: Any, planner: Any) -> Any:
            self.good -= 1
            if self.good < 0:
                Path(writer.path, "__0_0.distcp").write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(writer, plan, planner)

        monkeypatch.setattr(FileSystemWriter, "write_data", writing)


def test_a_full_disk_costs_nothing_saved_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        FullDisk(patch, good=1)
        with pytest.raises(CheckpointError, match=r"step 8 .*No space left.*step 3 is kept.*same command"):
            pretrain(fresh(), RECIPE, PROCESSORS, batches, tmp_path, report=told.append)
    warnings = [row["warning"] for row in told if "warning" in row]
    assert len(warnings) == 1 and "step 6" in warnings[0] and "step 3 is kept" in warnings[0]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000003"]
    assert pretrain(fresh(), RECIPE, PROCESSORS, batches, tmp_path) == 8
    assert [row["step"] for row in log_of(tmp_path)] == list(range(1, 9))


def test_a_state_of_another_model_is_one_clear_error(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=1)
    pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)
    other = dataclasses.replace(CONFIG, layers=3, decoder=DecoderConfig(24, 1, 2, 32))
    with pytest.raises(CheckpointError, match="another model than this recipe's") as caught:
        pretrain(tiny_model(config=other), recipe, PROCESSORS, batches, tmp_path)
    message = str(caught.value)
    assert "expected (24," in message and "more" in message and len(message.splitlines()) < 12
    assert read_state(tmp_path)["step"] == 1
    deeper = dataclasses.replace(CONFIG, layers=CONFIG.layers + 1)
    with pytest.raises(CheckpointError, match=rf"another model.*\n  model/.*blocks\.{CONFIG.layers}\..*: missing"):
        pretrain(tiny_model(config=deeper), recipe, PROCESSORS, batches, tmp_path)


def test_a_damaged_state_is_one_clear_error(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=1)
    pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)
    (path,) = (tmp_path / "state").iterdir()
    data = path / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="step-00000001: cannot be read"):
        pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)
    (path / ".metadata").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="step-00000001: damaged"):
        pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)


def test_an_average_that_the_state_lacks_starts_from_its_weights(tmp_path: Path) -> None:
    pretrain(fresh(), dataclasses.replace(RECIPE, steps=2), PROCESSORS, batches, tmp_path)
    weights = read_state(tmp_path)
    averaged = dataclasses.replace(RECIPE, steps=3, optimizer=dataclasses.replace(RECIPE.optimizer, ema_decay=0.999))
    model = fresh()
    pretrain(model, averaged, PROCESSORS, batches, tmp_path)
    name = "encoder.projections.text.weight"
    torch.testing.assert_close(model.get_parameter(name).detach(), weights[f"model/{name}"], rtol=0, atol=1e-4)
