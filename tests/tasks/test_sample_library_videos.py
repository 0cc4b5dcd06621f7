"""The rows on videos: what is asked of what, and what a model that knows everything or nothing gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.data.manifest import Item
from one_peace.data.sample_library import animations, emoji
from one_peace.models.embedding import EmbeddingResult
from one_peace.tasks import sample_library_videos
from one_peace.tasks.sample_library import STAMPS, Row, as_table
from one_peace.tasks.sample_library_videos import video_rows

GROUPS, HELD_OUT = 30, 6


class Oracle:
    """Knows what every file shows: its stem is the caption. A still of a video shows half of them."""

    modalities: tuple[str, ...] = ("text", "image", "audio", "video")

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind

    def vector(self, meaning: str) -> Tensor:
        seed = sum(ord(c) * 31**n for n, c in enumerate(meaning)) % 2**31
        return F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(seed)), dim=0)

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.stack([self.vector(text) for text in texts])

    def encode_modality(self, name: str, sources: list[Any], on_error: str = "raise") -> Any:
        meanings = [str(source) if self.blind else Path(source).name.split(".")[0] for source in sources]
        vectors = torch.stack([self.vector(meaning) for meaning in meanings])
        return vectors if on_error == "raise" else EmbeddingResult(vectors, list(range(len(sources))), {})


def library() -> list[Item]:
    items: list[Item] = []

    def add(kind: str, number: int, source: str, **rest: Any) -> None:
        group, split = f"thing {number}", "test" if number < HELD_OUT else "train"
        path = Path(f"/{source.strip('@').replace('/', '-')}{len(items)}/{group}.{kind}")
        identity = f"{kind}{len(items)}"
        items.append(Item(identity, kind, path, group, split, source, "1", "MIT", {"en": [group]}, **rest))  # type: ignore[arg-type]

    for number in range(GROUPS):
        add("video", number, animations.PACKAGE.name)
    for number in range(2 * GROUPS):  # pictures and sounds of other things, too
        for source in (emoji.RENDERED.name, emoji.DRAWN[0].name, "openclipart-svg"):
            add("image", number, source)
        add("audio", number, STAMPS, track="speech", language="en")
        add("audio", number, STAMPS, track="speech", language="ro", heldout_speaker=True)
        add("audio", number, STAMPS, track="effect")
        add("audio", number, STAMPS, track="synthetic")
    return items


@pytest.fixture(autouse=True)
def stills(monkeypatch: pytest.MonkeyPatch) -> None:
    """A still of every other thing does not tell it."""

    class Half:
        def picture(self, path: Path) -> Path:
            number = int(path.stem.split()[1])
            return path if number % 2 else Path(f"/unclear {number}.video")

    monkeypatch.setattr(sample_library_videos, "get_modality", lambda _: Half())


@pytest.fixture
def rows() -> list[Row]:
    return video_rows(Oracle(), library())  # type: ignore[arg-type]


def test_rows_count_what_they_ask_of_what(rows: list[Row]) -> None:
    sizes = {(row.task, row.subset): (row.at_1.queries, row.at_1.candidates) for row in rows}
    seen = GROUPS - HELD_OUT
    for subset, count in (("seen captions", seen), ("held-out captions", HELD_OUT)):
        for side in ("video", "still"):
            assert sizes.pop((f"{side} -> text", subset)) == sizes.pop((f"text -> {side}", subset)) == (count, GROUPS)
        for style in sample_library_videos.STYLES.values():
            assert sizes.pop((f"video -> image {style} (never paired)", subset)) == (count, 2 * GROUPS)
    sounds = "sound -> video (never paired)"
    assert sizes == {
        (sounds, "spoken, seen clips"): (seen, GROUPS),
        (sounds, "spoken, held-out captions"): (HELD_OUT, GROUPS),
        (sounds, "spoken, held-out voices, seen captions"): (seen, GROUPS),
        (sounds, "sound effects"): (GROUPS, GROUPS),
    }
    assert len(as_table(rows).splitlines()) == 2 + len(rows)


def test_a_model_that_knows_everything_is_right_and_stills_are_half_as_good(rows: list[Row]) -> None:
    for row in rows:
        if row.task == "still -> text":
            assert 0.4 < row.at_1.value < 0.7, row
        elif row.task != "text -> still":
            assert row.at_1.value == 1.0, row
        assert row.at_1.shuffled < 0.3, row


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    for row in video_rows(Oracle(blind=True), library()):  # type: ignore[arg-type]
        assert row.at_1.value < 0.4 and abs(row.at_1.value - row.at_1.shuffled) < 0.35, row


def test_without_sound_no_sounds_are_asked() -> None:
    model = Oracle()
    model.modalities = ("text", "image", "video")
    assert not any("sound" in row.task for row in video_rows(model, library()))  # type: ignore[arg-type]
