"""The measurement of mico-nano, on a model and a library that know nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from one_peace.data.manifest import Item
from tiny_mico import CAPTIONS, tiny_mico

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import mico  # noqa: E402


def library(folder: Path) -> list[Item]:
    """Pictures with a sound each; of every second one the caption is held out."""
    items = []
    draw = np.random.default_rng(0)
    for number, caption in enumerate(CAPTIONS):
        Image.fromarray(draw.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{number}.png")
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, 3000).astype(np.float32), 16000)
        made: Any = (caption, "val" if number % 2 else "train", mico.STAMPS, "1", "GPL", {"en": [caption]})
        items.append(Item(f"p{number}", "image", folder / f"{number}.png", *made))
        items.append(Item(f"s{number}", "audio", folder / f"{number}.wav", *made, track="effect", item=f"p{number}"))
    return items


def test_every_row_has_its_controls(tmp_path: Path) -> None:
    record = mico.measure(tiny_mico(), library(tmp_path), 10, 2)
    assert [(row["set"], row["direction"]) for row in record["retrieval"][:4]] == [
        ("pictures, seen captions", "image_to_text"),
        ("pictures, seen captions", "text_to_image"),
        ("pictures with sound effects, seen captions", "image_to_text"),
        ("pictures with sound effects, seen captions", "text_to_image"),
    ]
    assert len(record["retrieval"]) == 16 and record["retrieval"][6]["direction"] == "image+audio_to_text"
    for row in record["retrieval"]:
        for figure in (row["at_1"], row["at_10"], row["matched"]):
            assert figure["low"] <= figure["value"] <= figure["high"] and figure["queries"] == 3
        assert row["at_10"]["value"] == row["at_10"]["shuffled"] == 1.0
    facts = {"date": "today", "machine": "this", "commit": "0123456789"}
    table = mico.to_markdown(record | {"facts": facts, "model": "tiny", "fingerprint": "f"})
    assert "| held-out captions | 2 |" in table and "| image+audio -> text | 3 x 3 |" in table


def test_captions_are_compared_with_their_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_mico()
    clips = [{"image": number, "caption": f"{caption.capitalize()}."} for number, caption in enumerate(CAPTIONS)]
    monkeypatch.setattr(model, "caption", lambda image: [CAPTIONS[number] for number in image])
    row = mico.caption_row(model, clips)
    assert row["exact"]["value"] == 1.0 and row["exact"]["shuffled"] < 0.5
    assert row["CIDEr"]["low"] <= row["CIDEr"]["value"] <= row["CIDEr"]["high"] and row["CIDEr"]["value"] > 2
    assert row["CIDEr"]["shuffled"] < row["CIDEr"]["value"] / 2
