"""Clips of the sample library: which items make one, and whose captions they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from one_peace.data.clips import LibraryClips
from one_peace.data.manifest import Item
from one_peace.errors import InputError


def item(name: str, group: str, **more: Any) -> Item:
    values: dict[str, Any] = {"kind": "image", "split": "train", "source": "stamps", "texts": {}}
    return Item(**{"id": name, "group": group, "path": Path(name), "version": "1", "licence": "", **values, **more})


ITEMS = [
    item("crow", "crow", texts={"en": ["A crow.", "A raven."], "fr": ["Un corbeau."]}),
    item("emoji-crow", "crow", texts={"en": ["Crow"]}, source="emoji"),
    item("caw", "crow", kind="audio", track="effect", item="crow"),
    item("said", "crow", kind="audio", track="speech", item="crow"),
    item("aside", "crow", kind="audio", track="speech", item="crow", heldout_speaker=True),
    item("dog", "dog", texts={"en": ["A dog."]}, split="val"),
]


def found(clips: LibraryClips) -> list[dict[str, Any]]:
    return [clip for index in range(len(clips)) for clip in clips.row(index)[1]["clips"]]


def test_the_clips_of_a_caption_are_one_row() -> None:
    clips = LibraryClips(ITEMS, ["image"])
    assert len(clips) == 1 and [clip["image"].name for clip in found(clips)] == ["crow", "emoji-crow"]
    assert found(LibraryClips(ITEMS, ["image"], split="val")) == [{"caption": ["A dog."], "image": Path("dog")}]


def test_a_sound_has_the_captions_and_the_picture_of_its_thing() -> None:
    captions = {"caption": ["A crow.", "A raven."]}
    assert found(LibraryClips(ITEMS, ["audio"])) == [{**captions, "audio": Path(name)} for name in ("caw", "said")]
    both = found(LibraryClips(ITEMS, ["image", "audio"]))
    assert both == [{**captions, "image": Path("crow"), "audio": Path(name)} for name in ("caw", "said")]


def test_sources_and_tracks_can_be_chosen_and_texts_withheld() -> None:
    assert [clip["image"].name for clip in found(LibraryClips(ITEMS, ["image"], only=["emoji"]))] == ["emoji-crow"]
    assert [clip["audio"].name for clip in found(LibraryClips(ITEMS, ["audio"], only=["speech"]))] == ["said"]
    (kept,) = found(LibraryClips(ITEMS, ["image"], withheld=["crow"]))
    assert kept == {"caption": ["A raven."], "image": Path("crow")}
    with pytest.raises(InputError, match="no train clip of video"):
        LibraryClips(ITEMS, ["video"])
