"""The weights inside the package: small, described, and good for what their names promise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from one_peace.checkpoints.registry import built_in_models
from one_peace.cli.main import app
from one_peace.models import from_pretrained

MIB = 2**20
LARGEST = {"one-peace-tiny": 60 * MIB}  # of the smaller ones 25


@pytest.mark.parametrize("name", built_in_models())
def test_shipped_weights_are_small_and_say_where_they_come_from(name: str) -> None:
    folder = built_in_models()[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST.get(name, 25 * MIB)
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F16", "I64"}  # noqa: SIM118
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and "GPL-2.0-or-later" in card and name in card
    recipes = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yaml")]
    assert recipes and all(recipe["steps"] > 0 for recipe in recipes)
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == recipes[0]["steps"] or len(recipes) > 1


def test_mico_nano_reads_and_writes(tmp_path: Path) -> None:
    model = from_pretrained("mico-nano")
    assert model.config.name == "mico-nano"
    picture = Image.new("RGB", (60, 60), "red")
    texts = model.encode_text(["a cow", "a cow", "a red apple"])
    assert torch.equal(texts[0], texts[1]) and texts[0] @ texts[2] < 0.9
    waveform = (np.sin(np.arange(8000) / 7).astype(np.float32), 16_000)
    joint = model.encode_joint(image=picture, audio=waveform)
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(1))
    assert 0 < model.match("a red apple", image=picture).item() < 1
    [caption] = model.caption(image=picture)
    assert isinstance(caption, str) and caption.isascii()


def test_a_library_by_mico_nano(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (60, 60), name).save(tmp_path / "pictures" / f"{name}.png")
    place = ["--library", str(tmp_path / "library")]
    made = CliRunner().invoke(app, ["index", str(tmp_path / "pictures"), "--model", "mico-nano", *place])
    assert made.exit_code == 0, made.output
    found = CliRunner().invoke(app, ["search", "--image", str(tmp_path / "pictures" / "red.png"), *place])
    assert found.exit_code == 0 and found.output.index("red.png") < found.output.index("blue.png"), found.output
