"""Two processes fine-tune as one does: a head, and the contrast of retrieval over the global batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from one_peace.checkpoints.native import open_folder
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.training.finetuning.recipe import load_finetune_recipe
from one_peace.training.finetuning.run import finetune
from run_folders import untimed_log
from tiny_models import CAPTIONS, CONFIG, tiny_processors
from warm_processes import finish, run_command, start_together

TASKS: dict[str, dict[str, Any]] = {
    "head": {"task": {"kind": "classification", "label_column": "caption"}},
    "retrieval": {"task": {"kind": "retrieval", "modality": "image"}},
}


def write_recipes(folder: Path) -> list[Path]:
    """A random model, eight pictures with their captions, and a recipe for each task."""
    torch.manual_seed(0)
    encoder = OnePeaceEncoder(dataclasses.replace(CONFIG, decoder=None))
    OnePeace(encoder, tiny_processors()).save_pretrained(folder / "base")
    lines = ["path,caption"]
    for k in range(8):
        Image.new("RGB", (64, 64), (30 * k, 200 - 20 * k, 90)).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{CAPTIONS[k % 5]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    recipes = []
    for name, task in TASKS.items():
        tables = {"root": str(folder), "train": "table.csv", "columns": {"path": "image"}}
        # with batches of 4 in micro-batches of 2, the captions of a batch differ in length and some repeat
        values = {
            **task,
            "model": str(folder / "base"),
            "epochs": 1.5,
            "batch_size": 4,
            "micro_batch": 2,
            "log_every": 1,
        }
        values |= {"tables": tables | {"validation": "table.csv"}, "drop_path": 0.2}
        values["optimizer"] = {"lr": 3e-3, "ema_decay": 0.5}
        recipes.append(folder / f"{name}.yaml")
        recipes[-1].write_text(yaml.safe_dump(values))
    return recipes


def test_two_processes_fine_tune_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    recipes = write_recipes(tmp_path)
    two = tmp_path / "two"
    started = [
        start_together(run_command, (["finetune", str(path), "--out", str(two / path.stem)],), 2) for path in recipes
    ]
    for recipe in recipes:
        finetune(load_finetune_recipe(str(recipe)), tmp_path / "one" / recipe.stem, "cpu", lambda row: None)
    for processes in started:
        finish(processes)
    for name in TASKS:
        logs = [untimed_log(tmp_path / run / name) for run in ("one", "two")]
        assert len(logs[0]) == len(logs[1]) == 5  # three updates, two evaluations
        for one, two in zip(*logs, strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=2e-5)
        saved = [open_folder(tmp_path / run / name / "model").tensors for run in ("one", "two")]
        assert saved[0].keys() == saved[1].keys()
        for tensor in saved[0]:
            torch.testing.assert_close(saved[0][tensor][0], saved[1][tensor][0], rtol=1e-3, atol=3e-4, msg=tensor)
