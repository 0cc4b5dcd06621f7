"""Held-out pairs: what is a candidate, what counts as right, what the figures are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from one_peace.data.decoding import PairDecoder
from one_peace.data.manifest import Item
from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import InputError
from one_peace.tasks.held_out import (
    captions_of,
    categories_of,
    decode_held_out,
    label_figures,
    label_vectors,
    retrieval_figures,
    validation_items,
)
from tiny_models import tiny_processors

PROCESSORS = tiny_processors()
DECODER = PairDecoder(PROCESSORS["text"], "image", PROCESSORS["image"], 0.0)  # type: ignore[arg-type]


def picture(folder: Path, name: str) -> Path:
    path = folder / f"{name}.png"
    Image.new("RGB", (20, 20), name).save(path)
    return path


def test_captions_and_files_that_repeat_are_one_candidate(tmp_path: Path) -> None:
    red, blue = picture(tmp_path, "red"), picture(tmp_path, "blue")
    pairs = [
        RawPair("1", "A red square.", red),
        RawPair("2", "something red", red),
        RawPair("3", "a blue square", blue.read_bytes()),
        RawPair("4", "Red  square", blue.read_bytes()),  # says what the first one says
        RawPair("5", "lost", tmp_path / "nowhere.png"),
        RawPair("6", " ", red),
    ]
    held_out = decode_held_out("mine", [lambda p=p: p for p in pairs], DECODER)
    assert held_out.texts == ["a red square.", "something red", "a blue square"]  # cleaned as published
    assert len(held_out.partners) == 2
    assert held_out.relevant.tolist() == [[True, True, False], [True, False, True]]
    assert held_out.partners[0]["pixels"].equal(PROCESSORS["image"](red)["pixels"])  # as for encoding


def test_nothing_usable_is_one_clear_error(tmp_path: Path) -> None:
    def broken() -> RawPair:
        raise UnusablePair("row 7", "is no base64", "bad base64")

    with pytest.raises(InputError, match="mine: its 2 pairs hold nothing usable. 2 pairs were left out: 2 bad base64"):
        decode_held_out("mine", [broken, broken], DECODER)
    one = RawPair("1", "the same", picture(tmp_path, "red"))
    with pytest.raises(InputError, match="only one text"):
        decode_held_out("mine", [lambda: one, lambda: one], DECODER)


def test_each_caption_of_a_picture_counts_as_right() -> None:
    #  pictures x texts; the first picture has texts 0 and 1, the second text 2
    relevant = torch.tensor([[True, True, False], [False, False, True]])
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3]])
    figures = retrieval_figures("image", scores, relevant)
    assert figures["image_to_text@1"] == 0.5  # right, wrong
    assert figures["text_to_image@1"] == pytest.approx(2 / 3)  # wrong, right, right
    assert figures["recall"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert set(figures) == {"image_to_text@1", "text_to_image@1", "recall"}  # more ranks would be trivial here
    many = retrieval_figures("image", torch.eye(12), torch.eye(12, dtype=torch.bool))
    assert set(many) == {f"{a}_to_{b}@{k}" for a, b in (("image", "text"), ("text", "image")) for k in (1, 5, 10)} | {
        "recall"
    }
    assert set(many.values()) == {1.0}


def test_weights_that_are_not_finite_rank_nothing() -> None:
    scores = torch.full((2, 2), float("nan"))
    assert all(value != value for value in retrieval_figures("image", scores, torch.eye(2, dtype=torch.bool)).values())


def test_labels_average_the_directions_of_their_prompts() -> None:
    prompted = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])  # prompts, labels, dim
    vectors = label_vectors(prompted)
    torch.testing.assert_close(vectors, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))
    relevant = torch.tensor([[True, False], [True, False]])
    inputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert label_figures(inputs @ vectors.t(), relevant) == {"zero_shot@1": 0.5}


def item(name: str, **values: object) -> Item:
    given = {
        "kind": "image",
        "split": "val",
        "source": "stamps",
        "texts": {"en": [f"A {name}."]},
        "category": "animals/x",
    }
    return Item(id=name, path=Path(name), group=name, version="1", licence="", **(given | values))  # type: ignore[arg-type]


def test_only_validation_items_of_the_recipes_sources_take_part() -> None:
    items = [
        item("dog"),
        item("cat", split="train"),
        item("cow", split="test"),
        item("pig", source="other"),
        item("letter a", symbol=True),
        item("bark", kind="audio", track="effect", item="dog", texts={}),
        item("spoken a", kind="audio", track="speech", item="letter a"),
        item("voice", kind="audio", track="speech", item="dog", heldout_speaker=True),
    ]
    pictures = validation_items(items, "image", ["stamps"], 10)
    assert [i.id for i in pictures] == ["dog"]
    assert [i.id for i in validation_items(items, "audio", ["effect", "speech"], 10)] == ["bark"]
    assert [read().text for read in captions_of(pictures)] == ["A dog."]
    assert [read().text for read in captions_of([items[5]])] == ["bark"]
    kinds = [item("a", category="emoji/food-drink"), item("b", category=""), items[0]]
    assert [read().text for read in categories_of(kinds)] == ["food drink", "animals"]
    many = [item(str(n)) for n in range(50)]
    some = validation_items(many, "image", ["stamps"], 5)
    assert len(some) == 5 and some == validation_items(many[::-1], "image", ["stamps"], 5)
