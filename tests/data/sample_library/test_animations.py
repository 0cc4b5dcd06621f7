"""Animated emoji as a source of the sample library, and pairs drawn from them. Packages are made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.data.manifest import (
    Item,
    captioned_items,
    held_out_captions,
    load_manifest,
    normalise_caption,
    split_of,
    write_manifest,
)
from one_peace.data.pairs import DataRecipe, PairSampler
from one_peace.data.sample_library import animations, emoji
from one_peace.data.sample_library import building as sample_library
from one_peace.data.sample_library.animations import animation_items, animation_seconds
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.modalities.text import TextProcessor
from one_peace.modalities.video import VideoConfig, VideoProcessor
from tiny_models import tiny_processors
from video_files import animation, grey_frames

NAMES = {"1F327": "cloud with rain", "1F32A": "tornado", "2744-FE0F": "snowflake", "1F41C": "ant"}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(json.dumps(content))


@pytest.fixture
def fetched(tmp_path: Path) -> list[Fetched]:
    """The three packages: a snowflake's file without the variation selector, a still tornado, an ant twice."""
    folders = {package.name: tmp_path / "packages" / str(n) for n, package in enumerate(animations.PACKAGES)}
    names, annotations = folders[emoji.NAMES.name] / "package", folders[emoji.ANNOTATIONS.name] / "package"
    rows = [{"hexcode": code, "emoji": "x", "label": name, "group": 0} for code, name in NAMES.items()]
    rows.append({"hexcode": "1F41B", "emoji": "x", "label": "bug", "group": 0})
    for language in emoji._LANGUAGES.values():
        write(names / language / "data.json", rows)
    write(names / "meta" / "groups.json", {"groups": {"0": "animals-nature"}})
    for language in emoji._FURTHER_LANGUAGES:
        write(annotations / "annotations" / language / "annotations.json", {"annotations": {"annotations": {}}})
    assets = folders[animations.PACKAGE.name] / "package" / "assets"
    ant = animation(grey_frames(4), milliseconds=[40, 40, 40, 50])
    write(assets / "1f327.webp", animation(grey_frames(5, width=20)))
    write(assets / "2744.webp", animation(grey_frames(6)))
    write(assets / "1f41c.webp", ant)
    write(assets / "1f41b.webp", ant)
    write(assets / "1f327-1f3fb.webp", animation(grey_frames(7)))  # a skin tone
    Image.new("RGB", (8, 8)).save(assets / "1f32a.webp", lossless=True)
    licences = {package.name: package for package in animations.PACKAGES}
    return [Fetched("npm", name, licences[name].licence, "1", "00" * 32, folder) for name, folder in folders.items()]


def test_moving_emoji_are_items_with_names_and_splits_of_the_emoji(fetched: list[Fetched], tmp_path: Path) -> None:
    items = {item.id.rpartition("/")[2]: item for item in animation_items(fetched)}
    assert set(items) == {"1f327", "2744", "1f41b"}  # the ant's file is the bug's
    rain = items["1f327"]
    assert (rain.kind, rain.group, rain.duration) == ("video", "cloud with rain", 0.5)
    assert rain.texts["de"] == ["cloud with rain"] and rain.category == "emoji/animals-nature"
    assert items["1f41b"].duration == 0.17
    assert all(item.split == split_of(normalise_caption(item.texts["en"][0])) for item in items.values())
    write_manifest(items.values(), tmp_path / "manifest.jsonl", tmp_path)
    assert load_manifest(tmp_path / "manifest.jsonl", root=tmp_path) == list(items.values())


def test_seconds_come_from_headers_alone() -> None:
    content = animation(np.random.default_rng(0).integers(0, 255, (3, 9, 9, 3), np.uint8), milliseconds=[10, 20, 70])
    assert animation_seconds(content) == 0.1
    assert animation_seconds(content[:40]) == animation_seconds(b"") == animation_seconds(b"RIFF") == 0


def test_animations_are_fetched_on_request_only(
    fetched: list[Fetched], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "animations" not in sample_library.ALL_SOURCES
    assert sample_library.sources_with(["speech", "@iconify-json/noto"]) == sample_library.ALL_SOURCES
    wanted = sample_library.sources_with([animations.PACKAGE.name])
    assert wanted == (*sample_library.ALL_SOURCES, "animations")

    asked: list[str] = []
    by_name = {package.name: package for package in fetched}

    def fetch(package: Package, root: Path, **_: object) -> Fetched:
        asked.append(package.name)
        return by_name.get(package.name) or Fetched(package.client, package.name, "", "1", "11" * 32, tmp_path)

    monkeypatch.setattr(sample_library, "fetch", fetch)
    monkeypatch.setattr(sample_library.stamps, "stamp_items", lambda *_: [])
    monkeypatch.setattr(sample_library.emoji, "emoji_items", lambda *_: [])
    plain = sample_library.build_sample_library(tmp_path, ["stamps"])
    assert plain.items == [] and animations.PACKAGE.name not in asked
    library = sample_library.build_sample_library(tmp_path, ["animations", "emoji"])
    assert {item.kind for item in library.items} == {"video"} and len(library.items) == 3
    names = [package["name"] for package in library.packages]
    assert len(names) == len(set(names)), "a package that two sources use is listed once"


def test_pairs_of_videos_are_drawn_without_held_out_captions(tmp_path: Path) -> None:
    captions = [f"thing {n}" for n in range(40)]
    items = []
    for number, caption in enumerate(captions):
        path = tmp_path / f"{number}.webp"
        frames = (grey_frames(3 + number % 4) // 8 + 5 * number).astype(np.uint8)  # the grey tells which one it is
        path.write_bytes(animation(frames) if number else b"no video")
        split = split_of(caption)
        items.append(Item(caption, "video", path, caption, split, "animated", "1", "MIT", {"en": [caption]}))
    text = tiny_processors()["text"]
    assert isinstance(text, TextProcessor)
    chosen = captioned_items(items, "video")
    assert chosen and all(item.split == "train" for item in chosen)
    recipe = DataRecipe({"animated": 1.0}, augmentation=0.5)
    processor = VideoProcessor(VideoConfig(32, 4))
    withheld = held_out_captions(items)
    sampler = PairSampler(chosen, text, recipe, "video", processor, withheld)
    assert sampler.summary()["unreadable"] == (chosen[0].group == "thing 0")
    batch, again, other = sampler.batch(6, 0, 0), sampler.batch(6, 0, 0), sampler.batch(6, 0, 1)
    drawn = [text.tokenizer.decode(anchor["tokens"][:-1].tolist()).strip() for anchor, _ in batch]
    assert len(set(drawn)) == 6 and not set(drawn) & withheld
    assert all(partner["frames"].shape[1:] == (3, 32, 32) for _, partner in batch)
    assert {len(partner["frames"]) for _, partner in batch} <= {3, 4}
    assert all(torch.equal(a["frames"], b["frames"]) for (_, a), (_, b) in zip(batch, again, strict=True))
    assert any(a["tokens"].tolist() != b["tokens"].tolist() for (a, _), (b, _) in zip(batch, other, strict=True))
