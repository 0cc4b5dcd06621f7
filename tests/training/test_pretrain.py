"""The pretraining loop: it learns, and an interrupted run ends exactly as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from one_peace.modalities.base import Example
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT, PretrainingStage
from one_peace.training.pretrain import BatchSource, pretrain
from one_peace.training.recipe import OptimizerRecipe, PretrainRecipe
from tiny_models import CONFIG, tiny_model, tiny_pairs, tiny_processors

RECIPE = PretrainRecipe(
    model="tiny",
    stage=IMAGE_TEXT,
    steps=8,
    batch_size=5,
    optimizer=OptimizerRecipe(lr=3e-3, warmup_steps=2),
    log_every=1,
    save_every=3,
)
PROCESSORS = tiny_processors()
TESTS = Path(__file__).parents[1]


class Interrupted(Exception):
    pass


def batches(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
    return tiny_pairs(PROCESSORS, "image", 1000 * seed + step)[:size]


def sounds(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
    return tiny_pairs(PROCESSORS, "audio", 1000 * seed + step)[:size]


def fresh(drop_path: float = 0.3) -> OnePeaceForPretraining:
    """With drop path, so that the global generator has to be right after a resumption too."""
    return tiny_model(config=dataclasses.replace(CONFIG, drop_path=drop_path))


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_end(one: Path, other: Path) -> None:
    a, b = (torch.load(folder / "state.pt", weights_only=True) for folder in (one, other))
    assert a["step"] == b["step"]
    differing = [name for name, value in a["model"].items() if not torch.equal(value, b["model"][name])]
    assert not differing
    for index, moments in a["optimizer"]["state"].items():
        for key, value in moments.items():
            assert torch.equal(value, b["optimizer"]["state"][index][key]), (index, key)


@pytest.mark.parametrize(("stage", "source"), [(IMAGE_TEXT, batches), (AUDIO_TEXT, sounds)], ids=["pictures", "sounds"])
def test_the_loss_falls(tmp_path: Path, stage: PretrainingStage, source: BatchSource) -> None:
    recipe = dataclasses.replace(RECIPE, stage=stage, steps=30, drop_path=0.0, save_every=100)
    model = fresh(drop_path=0.0)
    pretrain(model, recipe, PROCESSORS, source, tmp_path)
    rows = log_of(tmp_path)

    def mean(name: str, part: slice) -> float:
        values = [row[name] for row in rows[part]]
        return sum(values) / len(values)

    for name in ("total", "contrast", "denoise_partner"):
        assert mean(name, slice(-5, None)) < mean(name, slice(5)) - 0.02, name
    assert mean("contrast", slice(-5, None)) < 0.7 * mean("contrast", slice(5))
    assert mean("partner_correct", slice(-5, None)) > 3.5  # of 5 pairs; by chance 1
    assert not model.training


def test_the_log_has_a_row_for_every_interval_and_the_last_step(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    recipe = dataclasses.replace(RECIPE, steps=7, log_every=3, denoise_every=3)
    pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path, report=told.append)
    rows = log_of(tmp_path)
    assert rows == told
    assert [row["step"] for row in rows] == [3, 6, 7]
    # steps count from 0: of 3, 6 and 7 only the last one is the seventh, number 6, and denoises
    assert [("denoise_partner" in row) for row in rows] == [False, False, True]
    assert all({"lr", "grad_norm", "pairs_per_second", "contrast", "total", "temperature"} <= set(r) for r in rows)
    assert not list(tmp_path.glob("*.partial"))


def test_two_runs_are_equal_and_another_seed_is_not(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name) + seed)
        model = fresh()
        torch.rand(seed + ord(name))  # the state of the global generator must not matter
        pretrain(model, dataclasses.replace(recipe, seed=seed), PROCESSORS, batches, tmp_path / name)
    assert_same_end(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_end(tmp_path / "a", tmp_path / "c")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    pretrain(fresh(), RECIPE, PROCESSORS, batches, folder)
    return folder


@pytest.mark.parametrize("at", [1, 5, 6])
def test_an_interrupted_run_ends_exactly_as_an_uninterrupted_one(tmp_path: Path, whole: Path, at: int) -> None:
    broken = tmp_path / "broken"

    def failing(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
        if step == at:
            raise Interrupted
        return batches(size, seed, step)

    with pytest.raises(Interrupted):
        pretrain(fresh(), RECIPE, PROCESSORS, failing, broken)
    torch.rand(at)
    pretrain(fresh(), RECIPE, PROCESSORS, batches, broken)
    assert_same_end(whole, broken)
    expected = {row["step"]: (row["total"], row["grad_norm"]) for row in log_of(whole)}
    assert all(expected[row["step"]] == (row["total"], row["grad_norm"]) for row in log_of(broken))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=3)
    pretrain(fresh(), recipe, PROCESSORS, batches, tmp_path)
    model = fresh()
    pretrain(model, recipe, PROCESSORS, lambda *_: pytest.fail("a batch was drawn"), tmp_path)
    assert len(log_of(tmp_path)) == 3
    state = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path: Path) -> None:
    def poisoned(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
        pairs = batches(size, seed, step)
        if step == 4:
            pairs[0][1]["pixels"][0, 0, 0] = float("nan")
        return pairs

    with pytest.raises(FloatingPointError, match="step 4"):
        pretrain(fresh(), RECIPE, PROCESSORS, poisoned, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values() if isinstance(value, Tensor))


def test_a_crash_while_saving_leaves_the_previous_state(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def failing(state: object, file: object) -> None:
        calls.append(state)
        if len(calls) == 2:
            file.write(b"half of it")  # type: ignore[attr-defined]
            raise Interrupted
        save(state, file)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", failing)
        with pytest.raises(Interrupted):
            pretrain(fresh(), RECIPE, PROCESSORS, batches, tmp_path / "broken")
    assert torch.load(tmp_path / "broken" / "state.pt", weights_only=True)["step"] == 3
    pretrain(fresh(), RECIPE, PROCESSORS, batches, tmp_path / "broken")
    assert_same_end(whole, tmp_path / "broken")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from training.test_pretrain import PROCESSORS, RECIPE, batches, fresh
import torch
from one_peace.training.pretrain import pretrain
torch.set_num_threads(1)
def slow(size, seed, step):
    if step == 5:
        Path(sys.argv[1], "waiting").touch()
        time.sleep(600)
    return batches(size, seed, step)
pretrain(fresh(), RECIPE, PROCESSORS, slow, Path(sys.argv[1]))
"""


def test_a_killed_process_is_resumed_exactly(tmp_path: Path, whole: Path) -> None:
    killed = tmp_path / "killed"
    path = os.pathsep.join([*sys.path, str(TESTS)])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(killed), str(TESTS)], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        deadline = time.monotonic() + 120
        while not (killed / "waiting").exists():
            assert process.poll() is None, "the process ended early"
            assert time.monotonic() < deadline, "the process never reached its fifth step"
            time.sleep(0.05)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert torch.load(killed / "state.pt", weights_only=True)["step"] == 3
    pretrain(fresh(), RECIPE, PROCESSORS, batches, killed)
    assert_same_end(whole, killed)
    assert [row["step"] for row in log_of(killed)] == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
