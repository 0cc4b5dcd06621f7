"""The four panels of MiCo's study, at a size that says nothing but that it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from one_peace.data.manifest import Item

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import scaling  # noqa: E402
from studies.mico_setting import PICTURES  # noqa: E402


def library(folder: Path, source: str) -> list[Item]:
    """Pictures with sounds; every third caption is held out."""
    items = []
    draw = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(draw.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, 3000).astype(np.float32), 16000)
        split = "train" if number % 3 else "val"
        made = ("1", "GPL", {"en": [f"thing {number}"]})
        items.append(Item(f"p{number}", "image", folder / f"{number}.png", f"thing {number}", split, source, *made))
        items.append(
            Item(
                f"s{number}", "audio", folder / f"{number}.wav", f"thing {number}", split, source, "1", "GPL", {},
                track="effect", item=f"p{number}",
            )
        )  # fmt: skip
    return items


def test_a_study_trains_its_arms_and_tells_them_apart(tmp_path: Path) -> None:
    scale = scaling.Scale(steps=2, batch_size=3, size=28, frames=1, vocabulary=60, clips=20, held_out=10)
    world = scaling.World(library(tmp_path, PICTURES[0]), scale, ("pictures", "sounds"))
    arms = {"pictures": scaling.Arm(("pictures",), size="small"), "+ sounds": scaling.Arm(size="small")}
    contrast = {"contrast": scaling.Arm(("pictures",), size="small", objectives="contrast")}
    panels = {"modalities": arms, "objectives": contrast}
    kept: list[dict[str, Any]] = []
    record = scaling.run_study(world, 2, lambda r: kept.append(dict(r)), panels)
    assert [r["seeds"] for r in kept] == [1, 2] and len(record["runs"]) == 6
    assert [run["updates"] for run in record["runs"][:3]] == [2, 3, 2]
    assert all(0 <= run["figures"]["recall"] <= 1 for run in record["runs"])
    assert record["held_out"] == {"pictures": 3, "captions": 3}
    facts = {"date": "2024-01-01", "commit": "0123456789+", "machine": "any", "threads": 1}
    whole = {"command": "python", "facts": facts} | record
    table = scaling.to_markdown(whole)
    assert "commit 0123456+," in table
    assert table.count("| modalities |") == 2 and "| objectives | contrast |" in table
    scaling.draw(scaling.panels_of(whole), "title", tmp_path / "scaling.png")
    assert Image.open(tmp_path / "scaling.png").width > 400
    first, _ = scaling.train(world, arms["pictures"], 1)
    again, _ = scaling.train(world, arms["pictures"], 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
