"""Two processes that share the weights train OFA as one does: given targets, its own captions, the mixture; and go on
to the bit after a kill, batch norms included."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from one_peace.checkpoints.native import open_folder
from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.processor import OfaProcessor
from one_peace.training.finetuning.recipe import load_finetune_recipe
from one_peace.training.finetuning.run import finetune
from one_peace.training.ofa.update import SequenceUpdate
from run_folders import untimed_log
from tiny_ofa import CONFIG, tiny_model, vocabulary
from warm_processes import finish, run_command, start_together

COMMANDS = {"targets": "finetune", "captions": "finetune", "mixture": "pretrain"}
SETTINGS: dict[str, dict[str, Any]] = {
    "targets": {"task": {"kind": "captioning"}, "micro_batch": 2, "sequence": {"dropout": 0.1}},
    "captions": {
        "task": {"kind": "captioning", "references": True},
        "sequence": {"self_critical": True, "beams": 2, "max_tokens": 4},
    },
    "mixture": {
        "task": {"kind": "pretraining", "mixed": {"texts": "table.tsv", "objects": "objects.tsv"}},
        "batch_size": 16,
        "micro_batch": 4,  # beside eight rows stand three examples of the second batch: one and two at a time
        "drop_path": 0.2,
        "sequence": {"dropout": 0.1},
    },
}


def write_recipes(folder: Path) -> None:
    """A random model, eight captioned pictures, and a recipe for each kind of update. Norms keep their statistics,
    which else are those of the examples of one process."""
    Ofa(tiny_model(), OfaProcessor(CONFIG, vocabulary())).save_pretrained(folder / "base")
    lines = ["uniq_id\timage\ttype\tcaption\ttext"]
    for number in range(8):
        Image.new("RGB", (48, 48), (30 * number, 200 - 20 * number, 90)).save(folder / f"{number}.png")
        text = "two dogs" if number % 3 else "a red apple on a red apple"
        lines.append(f"{number}\t{number}.png\tcaption\t{text}\t{text}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")
    objects = [f"{number}.png\t4,4,44,44,a red apple" for number in range(8)]
    (folder / "objects.tsv").write_text("\n".join(["image\tobjects", *objects]) + "\n")
    for name, settings in SETTINGS.items():
        values = {
            "model": str(folder / "base"),
            "tables": {"root": str(folder), "train": "table.tsv"},
            "steps": 3,
            "batch_size": 4,
            "optimizer": {"lr": 1e-3, "clip_norm": 1.0},
            "log_every": 1,
            **settings,
            "sequence": {**settings["sequence"], "freeze_norms": True},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


def test_two_processes_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    write_recipes(tmp_path)
    paths = {name: tmp_path / f"{name}.yaml" for name in SETTINGS}
    started = [
        start_together(run_command, ([COMMANDS[name], str(path), "--out", str(tmp_path / "two" / name)],), 2)
        for name, path in paths.items()
    ]
    for name, path in paths.items():
        recipe = load_finetune_recipe(str(path), [], COMMANDS[name])
        finetune(recipe, tmp_path / "one" / name, "cpu", lambda row: None)
    for processes in started:
        finish(processes)
    base = open_folder(tmp_path / "base").tensors
    for name in SETTINGS:
        one, two = (untimed_log(tmp_path / run / name) for run in ("one", "two"))
        assert len(one) == len(two) == 3
        for alone, shared in zip(one, two, strict=True):
            assert shared == pytest.approx(alone, rel=1e-4, abs=2e-5), name
        saved = [open_folder(tmp_path / run / name / "model").tensors for run in ("one", "two")]
        assert saved[0].keys() == saved[1].keys()
        for tensor in saved[0]:
            torch.testing.assert_close(saved[0][tensor][0], saved[1][tensor][0], rtol=1e-3, atol=3e-4, msg=tensor)
        assert not torch.equal(saved[0]["tokens.weight"][0], base["tokens.weight"][0]), json.dumps(one)


def test_half_precision_is_the_same_on_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    write_recipes(tmp_path)
    words = ["finetune", str(tmp_path / "targets.yaml"), "engine.precision=bfloat16", "sequence.dropout=0", "--out"]
    started = [start_together(run_command, ([*words, str(tmp_path / str(count))],), count) for count in (1, 2)]
    for processes in started:
        finish(processes)
    one, two = (untimed_log(tmp_path / count) for count in "12")
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=2e-2)
    norm = "encoder.trunk.norm.weight"
    saved = [open_folder(tmp_path / count / "model").tensors[norm][0] for count in "12"]
    torch.testing.assert_close(*saved, rtol=1e-3, atol=3e-4)


def die_at(step: int, words: list[str]) -> None:
    """`one-peace WORDS`, killed as update `step` (from 0) begins."""
    gradients = SequenceUpdate.gradients

    def killed(self: SequenceUpdate, now: int) -> dict[str, Tensor]:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(self, now)

    SequenceUpdate.gradients = killed  # type: ignore[method-assign]
    run_command(words)


def test_killed_processes_go_on_to_the_bit_with_statistics_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    write_recipes(tmp_path)
    norms = ["sequence.freeze_norms=false", "steps=6", "save_every=1", "optimizer.ema_decay=0.5"]
    words = ["finetune", str(tmp_path / "targets.yaml"), *norms, "--out"]
    whole = start_together(run_command, ([*words, str(tmp_path / "whole")],), 2)
    killed = start_together(die_at, (4, [*words, str(tmp_path / "cut")]), 2)
    assert [process.wait() for process in killed] == [-signal.SIGKILL] * 2, killed[0].errors()[-3000:]
    assert (tmp_path / "cut/state/step-00000003").exists(), "that of step 4 was being written"
    finish(start_together(run_command, ([*words, str(tmp_path / "cut")],), 2))
    finish(whole)
    assert untimed_log(tmp_path / "cut") == untimed_log(tmp_path / "whole")
    files = [tmp_path / run / "model/model.safetensors" for run in ("cut", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
