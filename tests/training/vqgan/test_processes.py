"""Two processes that share the weights learn a VQGAN as one does, from before it has codes to after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from one_peace.models.vqgan.loading import load_vqgan
from one_peace.training.finetuning.recipe import load_finetune_recipe
from one_peace.training.finetuning.run import finetune
from run_folders import untimed_log
from warm_processes import finish, run_command, start_together


def test_two_processes_train_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    lines = ["image\tcaption"]
    for number in range(8):
        Image.new("RGB", (16, 16), (30 * number, 200 - 20 * number, 90)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\ta square {number}")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    path = tmp_path / "coder.yaml"
    values = {
        "task": {"kind": "picture-coding"},
        "model": "vqgan-nano",
        "tables": {"root": str(tmp_path), "train": "table.tsv", "validation": "table.tsv"},
        "steps": 3,
        "batch_size": 4,
        "micro_batch": 2,  # by which the noise is drawn
        "image_size": 16,
        "evaluate_every": 3,
        "optimizer": {"lr": 1e-3},
        "log_every": 1,
        "coding": {"uncoded": 2},
    }
    path.write_text(yaml.safe_dump(values))
    started = start_together(run_command, (["pretrain", str(path), "--out", str(tmp_path / "two")],), 2)
    finetune(load_finetune_recipe(str(path), [], "pretrain"), tmp_path / "one", "cpu", lambda row: None)
    finish(started)
    one, two = untimed_log(tmp_path / "one"), untimed_log(tmp_path / "two")
    assert len(one) == len(two) == 4
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-4, abs=2e-5)
    saved = [load_vqgan(tmp_path / run / "model").state_dict() for run in ("one", "two")]
    for name, tensor in saved[0].items():
        torch.testing.assert_close(tensor, saved[1][name], rtol=1e-3, atol=3e-4, msg=name)
