"""The measurement of reranking, near-duplicates and tags, on a library that a random model knows nothing of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from one_peace.data.manifest import Item
from one_peace.models.one_peace.interface import OnePeace
from one_peace.search.library import Library
from tiny_models import CAPTIONS, tiny_model, tiny_processors

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from library import CHANGES, STAMPS, measure  # noqa: E402


def pictures(folder: Path) -> list[Item]:
    """Five things in coarse squares of random colours; the first one twice, of the last two the captions held out."""
    items = []
    for number, caption in enumerate((*CAPTIONS, CAPTIONS[0])):
        squares = np.random.default_rng(number % len(CAPTIONS)).integers(0, 256, (4, 4, 3), np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(squares).resize((96, 96), Image.Resampling.NEAREST).save(path)
        split = "test" if caption in CAPTIONS[3:] else "train"
        category = ("animals/birds", "animals/mammals", "clothes")[number % 3]
        made: Any = (caption, split, STAMPS, "1", "GPL", {"en": [caption]})
        items.append(Item(str(number), "image", path, *made, category=category))
    return items


def test_everything_is_measured_beside_its_control(tmp_path: Path) -> None:
    shown, folder = pictures(tmp_path), tmp_path / "copies"
    folder.mkdir()
    library = Library(tmp_path / "library", OnePeace(tiny_model().eval().encoder, tiny_processors()))
    record = measure(library, shown, folder)
    assert record["pictures"] == len(library) == 6  # the copies are gone again
    assert [(row["texts"], row["pictures"]) for row in record["reranking"]] == [(3, 4), (2, 2)]
    for row in record["reranking"]:
        assert row["gain"]["value"] == row["reranked"]["value"] - row["plain"]["value"]
    captions, kinds = record["tags"]
    assert (captions["number"], captions["pictures"], captions["most_frequent"]) == (3, 4, 0.5)
    assert (kinds["number"], kinds["pictures"], kinds["most_frequent"]) == (2, 4, 0.5)
    assert [sorted(group.values()) for group in record["duplicates"]] == [[CAPTIONS[0]] * 2]
    copies = {row["change"]: row for row in record["copies"]}
    assert list(copies) == list(CHANGES) and all(row["copies"] == 6 for row in record["copies"])
    assert copies["half as wide and high"]["found"]["value"] == 1.0
    assert copies["mirrored"]["found"]["value"] == 0.0 == copies["mirrored"]["with_another_thing"]["value"]
