"""What a recipe's engine does to a model's losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from one_peace.training.forward_pass import shards_over
from one_peace.training.pretraining.pretrain import pretrain
from one_peace.training.recipe import EngineRecipe
from run_folders import log_of
from training_runs import PROCESSORS, RECIPE, batches, curve_of, fresh


def test_recomputation_changes_no_number_and_half_precision_few(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=2)
    for name, engine in (
        ("plain", EngineRecipe()),
        ("again", EngineRecipe(recompute=True)),
        ("half", EngineRecipe(precision="bfloat16")),
    ):
        pretrain(fresh(), dataclasses.replace(recipe, engine=engine), PROCESSORS, batches, tmp_path / name)
    assert curve_of(tmp_path / "again") == curve_of(tmp_path / "plain")
    for row, expected in zip(log_of(tmp_path / "half"), log_of(tmp_path / "plain"), strict=True):
        assert row["total"] == pytest.approx(expected["total"], rel=0.03)
        assert row["total"] != expected["total"]


def test_shards_that_do_not_divide_the_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_over=3 does not divide the 4 processes"):
        shards_over(4, 3)
    alone = dataclasses.replace(RECIPE, engine=EngineRecipe(shard_over=2))
    with pytest.raises(ValueError, match="shard_over=2 does not divide the one process of this run: .*torchrun"):
        pretrain(fresh(), alone, PROCESSORS, batches, tmp_path)
