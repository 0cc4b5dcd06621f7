"""The pretraining loop: it learns, and an interrupted run ends exactly as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from one_peace.errors import DivergenceError
from one_peace.modalities.base import Example
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT, PretrainingStage
from one_peace.training.pretraining.gradients import BatchSource
from one_peace.training.pretraining.pretrain import pretrain
from run_folders import log_of
from training_runs import PROCESSORS, RECIPE, batches, fresh, read_state, sounds


class Interrupted(Exception):
    pass


def assert_same_end(one: Path, other: Path) -> None:
    a, b = read_state(one), read_state(other)
    assert a.keys() == b.keys()
    assert not [name for name, value in a.items() if not torch.equal(value, b[name])]


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
    # steps count from 0: number 0, 3 and 6 denoise, and a row has the newest terms
    assert [("denoise_partner" in row) for row in rows] == [True, True, True]
    assert rows[1]["denoise_partner"] not in (rows[0]["denoise_partner"], rows[2]["denoise_partner"])
    assert rows[0]["total"] == rows[0]["contrast"] and rows[2]["total"] > rows[2]["contrast"]
    assert all({"lr", "grad_norm", "pairs_per_second", "contrast", "total", "temperature"} <= set(r) for r in rows)
    assert not list(tmp_path.glob(".log*"))


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
    state = read_state(tmp_path)
    assert all(torch.equal(value, state[f"model/{name}"]) for name, value in model.named_parameters())


def poisoned(*steps: int) -> BatchSource:
    def source(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
        pairs = batches(size, seed, step)
        if step in steps:
            pairs[0][1]["pixels"][0, 0, 0] = float("nan")
        return pairs

    return source


def test_a_gradient_that_is_not_finite_is_passed_over_and_counted(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=6, save_every=4)
    pretrain(fresh(), recipe, PROCESSORS, poisoned(1, 3), tmp_path)
    rows = log_of(tmp_path)
    assert [row.get("skipped", 0) for row in rows] == [0, 1, 1, 2, 2, 2]
    assert rows[1]["total"] is None and rows[2]["total"] > 0
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    assert read_state(tmp_path)["skipped"] == 2
    assert all(v.isfinite().all() for name, v in read_state(tmp_path).items() if name != "best")


def test_too_many_in_a_row_stop_the_run_with_a_message(tmp_path: Path) -> None:
    optimizer = dataclasses.replace(RECIPE.optimizer, skip_limit=2)
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    with pytest.raises(DivergenceError, match=r"step 6.*2 updates before.*step 4; the state of step 6 .*skip_limit"):
        pretrain(fresh(), recipe, PROCESSORS, poisoned(1, 4, 5, 6), tmp_path)
    assert read_state(tmp_path)["step"] == 6


def test_the_average_is_what_the_model_ends_with(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=5, optimizer=dataclasses.replace(RECIPE.optimizer, ema_decay=0.5))
    model = fresh()
    pretrain(model, recipe, PROCESSORS, batches, tmp_path)
    state = read_state(tmp_path)
    name = "encoder.projections.text.weight"
    ended = model.get_parameter(name)
    assert torch.equal(ended, state[f"average/{name}"]) and not torch.equal(ended, state[f"model/{name}"])


def test_micro_batches_share_one_contrast(tmp_path: Path) -> None:
    """Cut in any way, the contrast and its gradient are those of the whole batch."""
    weights = ("anchor_weight", "partner_weight", "joint_anchor_weight", "joint_partner_weight")
    stage = dataclasses.replace(IMAGE_TEXT, **dict.fromkeys(weights, 0.0))
    recipe = dataclasses.replace(RECIPE, stage=stage, steps=2, batch_size=4, save_every=99)
    for name, micro in (("whole", None), ("halves", 2), ("single", 1)):
        cut = dataclasses.replace(recipe, micro_batch=micro)
        pretrain(fresh(drop_path=0.0), cut, PROCESSORS, batches, tmp_path / name)
    expected = log_of(tmp_path / "whole")
    for name in ("halves", "single"):
        first, second = log_of(tmp_path / name)
        assert first["total"] == pytest.approx(expected[0]["total"], rel=1e-5)
        assert first["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-5)
        assert first["partner_correct"] == expected[0]["partner_correct"]
        # Adam's first update is as large for a gradient of rounding errors as for any other
        assert second["total"] == pytest.approx(expected[1]["total"], rel=1e-4)


def test_a_batch_with_too_few_pairs_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step 0: 1 usable pairs instead of 5"):
        pretrain(fresh(), RECIPE, PROCESSORS, lambda *_: batches(1, 0, 0), tmp_path)


def test_pairs_with_one_caption_are_no_negatives_of_each_other(tmp_path: Path) -> None:
    """Four times the same pair: nothing to tell apart, or as published a choice among four."""

    def alike(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
        return batches(size, seed, step)[:1] * size

    for rule, loss in (("ignored", 0.0), ("negatives", math.log(4))):
        recipe = dataclasses.replace(RECIPE, steps=1, batch_size=4, repeated_captions=rule)
        pretrain(fresh(drop_path=0.0), recipe, PROCESSORS, alike, tmp_path / rule)
        (row,) = log_of(tmp_path / rule)
        assert row["contrast"] == pytest.approx(loss, abs=1e-4)
    parts = dataclasses.replace(RECIPE, steps=1, batch_size=4, micro_batch=2)
    pretrain(fresh(drop_path=0.0), parts, PROCESSORS, alike, tmp_path / "parts")
    assert log_of(tmp_path / "parts")[0]["contrast"] == pytest.approx(0.0, abs=1e-4)
