"""Several processes train as one does on the same global batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from one_peace.checkpoints.native import open_folder
from one_peace.training.distributed import Processes, join_processes
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.gradients import Update
from run_folders import log_of
from training_runs import PROCESSORS, RECIPE, batches, curve_of, fresh, read_state, start
from warm_processes import finish

CUT = ("steps=4", "batch_size=4", "micro_batch=2", "save_every=2")

pytestmark = pytest.mark.xdist_group("distributed")  # `one` is made once


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one process, which takes two micro-batches."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, settings=CUT))
    return folder


def assert_same_losses(one: Path, many: Path) -> None:
    assert len(log_of(one)) == len(log_of(many))
    for row, expected in zip(log_of(many), log_of(one), strict=True):
        assert row["step"] == expected["step"]
        for name in ("total", "contrast", "denoise_anchor", "denoise_partner", "denoise_joint_partner"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1.1e-5), (row["step"], name)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
        assert row["partner_correct"] == expected["partner_correct"]


def test_two_processes_train_to_the_losses_of_one(tmp_path: Path, one: Path) -> None:
    finish(start(tmp_path, settings=CUT, count=2))
    assert_same_losses(one, tmp_path)
    a, b = read_state(one), read_state(tmp_path)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-3, atol=2e-4, msg=name)
    tensors = open_folder(tmp_path / "model").tensors
    for name in tensors:
        (written,) = tensors[name]
        saved = b[f"model/{name}" if f"model/{name}" in b else f"model/encoder.{name}"]
        assert torch.equal(written, saved), f"{name}: the model is not what was trained"


def test_hybrid_sharding_with_recomputation_and_full_gradients(tmp_path: Path) -> None:
    settings = (*CUT, 'contrast="full"', "micro_batch=1", "steps=2")
    finish(start(tmp_path / "one", settings=settings))
    finish(start(tmp_path / "four", settings=(*settings, "engine.shard_over=2", "engine.recompute=true"), count=4))
    assert_same_losses(tmp_path / "one", tmp_path / "four")


def test_a_restart_on_another_number_of_processes_goes_on(tmp_path: Path, one: Path) -> None:
    finish(start(tmp_path, settings=(*CUT, "steps=2"), count=2))
    # the schedule of the first part was that of a shorter run
    finish(start(tmp_path, settings=CUT))
    assert [row[0] for row in curve_of(tmp_path)] == [1, 2, 3, 4]
    assert read_state(tmp_path)["step"] == 4


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with join_processes("cpu") as (processes, device):
        assert processes == Processes() and processes.first and device == "cpu"
        assert processes.any(True) and not processes.any(False)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=5 is no multiple of the 2 processes"):
        Update(PretrainingPass(fresh(), RECIPE.stage), RECIPE, PROCESSORS, batches, Processes(0, 2), "cpu")
    uneven = dataclasses.replace(RECIPE, batch_size=12, micro_batch=4)
    with pytest.raises(ValueError, match="micro_batch=4 does not divide the 6 examples"):
        Update(PretrainingPass(fresh(), RECIPE.stage), uneven, PROCESSORS, batches, Processes(0, 2), "cpu")
