"""Dry runs of OFA's pretraining and of coders: what is counted with a few rows is what the whole update takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from one_peace.cli.main import app
from one_peace.models.ofa.layers import Layer
from one_peace.training.cost import FlopCount, KeptMemory
from one_peace.training.distributed import Processes
from one_peace.training.dry_run import plan_table_run
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.finetuning.run import open_job

MIXTURE = {
    "task": {"kind": "pretraining", "mixed": {"texts": "table.tsv"}},
    "model": "ofa-nano",
    "image_size": 32,
    "sequence": {"words": 300, "patches": 3},
}
CODING = {"task": {"kind": "picture-coding"}, "model": "vqgan-nano", "image_size": 64, "coding": {"crop": 32}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """16 pictures with captions of the same length, so that all rows cost alike."""
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    lines = ["image\tcaption\ttext\ttype"]
    for number in range(16):
        Image.new("RGB", (40, 40), (9 * number, 99, 200)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\tone red thing\tone red thing on a white table\tcaption")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def recipe(folder: Path, values: dict[str, Any], **changes: Any) -> FinetuneRecipe:
    shared = {"tables": {"root": str(folder), "train": "table.tsv"}, "steps": 5, "batch_size": 16}
    return FinetuneRecipe.from_dict({**shared, **values, **changes})


@pytest.mark.parametrize(("values", "micro"), [(MIXTURE, 4), (MIXTURE, 16), (CODING, 8)], ids=["4", "16", "coder"])
def test_a_few_rows_tell_of_the_whole_update(folder: Path, values: dict[str, Any], micro: int) -> None:
    chosen = recipe(folder, values, micro_batch=micro)
    told = plan_table_run(chosen)
    job = open_job(chosen, "cpu", Processes())
    with FlopCount() as counter, KeptMemory(job.model, ()) as kept:
        job.gradients(4)
    assert told.flops == pytest.approx(counter.total, rel=0.03)
    assert told.memory["activations"] == pytest.approx(kept.most, rel=0.05)
    assert told.tokens == pytest.approx(job.tokens(4), rel=0.03)
    assert told.trained == sum(parameter.numel() for parameter in job.model.parameters())
    assert told.memory["weights"] == told.memory["gradients"] == 4 * told.trained


def test_memory_follows_the_engine(folder: Path) -> None:
    plain = plan_table_run(recipe(folder, MIXTURE, micro_batch=8))
    recomputed = plan_table_run(recipe(folder, MIXTURE, micro_batch=8, engine={"recompute": True}))
    assert recomputed.flops == plain.flops
    assert recomputed.memory["activations"] < 0.7 * plain.memory["activations"]
    four = plan_table_run(recipe(folder, MIXTURE, micro_batch=8), devices=4)
    assert four.flops == pytest.approx(plain.flops, rel=0.01) and four.tokens == plain.tokens
    assert four.memory["weights"] == plain.memory["weights"] // 4
    assert 0.4 < four.memory["activations"] / plain.memory["activations"] < 0.6  # four rows at once, not eight
    with pytest.raises(ValueError, match="no multiple of the 3 processes"):
        plan_table_run(recipe(folder, MIXTURE), devices=3)


def test_what_is_kept_is_let_go(folder: Path) -> None:
    job = open_job(recipe(folder, MIXTURE, micro_batch=8), "cpu", Processes())
    layers = [module for module in job.model.modules() if isinstance(module, Layer)]
    with KeptMemory(job.model, layers) as kept:
        job.gradients(0)
    assert kept.now == 0 < kept.largest_block < kept.most


def test_the_command_tells_it(folder: Path) -> None:
    asked = ["ofa-nano", f"tables.root={folder}", "tables.train=table.tsv", "tables.validation=null", "task.mixed={}"]
    said = CliRunner().invoke(app, ["pretrain", *asked, "--dry-run", "--devices", "2"])
    assert said.exit_code == 0, said.output
    for part in ("image trunk", "token table", "source tokens", "picture tokens", "TFLOP", "memory per device, of 2"):
        assert part in said.output
    coder = CliRunner().invoke(
        app,
        [
            "pretrain",
            "vqgan-nano",
            f"tables.root={folder}",
            "tables.train=table.tsv",
            "tables.validation=null",
            "--dry-run",
        ],
    )
    assert coder.exit_code == 0 and "code tokens" in coder.output, coder.output
