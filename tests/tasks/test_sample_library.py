"""The report on the sample library: its rows, what counts as correct, and that pictures and sounds never pair up."""

from __future__ import annotations

import hashlib
import json
import wave
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from one_peace.data.manifest import Item, captioned_items, normalise_caption
from one_peace.data.pairs import DataRecipe, PairSampler
from one_peace.errors import InputError
from one_peace.modalities.text import TextProcessor
from one_peace.modalities.video import VideoConfig, VideoProcessor
from one_peace.models.embedding import EmbeddingResult
from one_peace.tasks.sample_library import CANDIDATES, STAMPS, Row, as_table, report
from one_peace.training.pretraining.recipe import load_recipe
from tiny_models import tiny_processors
from video_files import animation, grey_frames

GROUPS = 160
COLUMNS = 7


def vector(meaning: str) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:4], "big")
    return F.normalize(torch.randn(32, generator=torch.Generator().manual_seed(seed)), dim=0)


class Oracle:
    """A model that knows what every file shows or says: the file's stem, up to the first dot, is its caption."""

    modalities: tuple[str, ...] = ("text", "image", "audio")

    def __init__(self, blind: bool = False) -> None:
        self.blind = blind
        self.asked: list[str] = []

    def encode_text(self, texts: list[str]) -> Tensor:
        self.asked += texts
        return torch.stack([vector(normalise_caption(t).removesuffix(" en francais")) for t in texts])

    def encode_modality(self, name: str, paths: list[Path], on_error: str) -> EmbeddingResult:
        assert name in ("image", "audio") and on_error == "skip"
        kept = [i for i, path in enumerate(paths) if "broken" not in path.name]
        errors = {i: InputError(str(paths[i]), "broken") for i in range(len(paths)) if i not in kept}
        meanings = [str(paths[i]) if self.blind else paths[i].name.split(".")[0] for i in kept]
        return EmbeddingResult(torch.stack([vector(m) for m in meanings]), kept, errors)


def split_of_number(number: int) -> str:
    return "test" if number % 8 == 0 else "train"


def library() -> list[Item]:
    """Pictures, each with a clip of a seen and of a held-out voice, a French clip, some effects; things to ignore."""
    items: list[Item] = []

    def add(id: str, kind: str, group: str, split: str, **rest: Any) -> None:
        values = {"source": STAMPS, "texts": {"en": [group], "fr": [f"{group} en francais"]}, **rest}
        path = Path(values.pop("folder", "/p")) / f"{group}.{id}"
        items.append(Item(id, kind, path, group, split, version="1", licence="GPL", **values))  # type: ignore[arg-type]

    for n in range(GROUPS):
        group, split = f"thing {n}", split_of_number(n)
        add(f"p{n}", "image", group, split)
        speech: dict[str, Any] = {"track": "speech", "item": f"p{n}"}
        add(f"a{n}", "audio", group, split, language="en", speaker="a", **speech)
        add(f"c{n}", "audio", group, split, language="en", speaker="c", heldout_speaker=True, **speech)
        add(f"f{n}", "audio", group, split, language="fr", speaker="f", **speech)
        if n % 4 == 0:
            add(f"e{n}", "audio", group, split, track="effect", item=f"p{n}")
        add(f"s{n}", "audio", group, split, track="synthetic", item=f"p{n}", speaker="machine")
    add("twin", "image", "thing 1", "train")  # the same caption again
    add("orphan", "audio", "thing 1", "train", track="effect", item="nobody")
    add("broken", "image", "thing 2", "train")
    add("symbol", "image", "letter", "train", symbol=True)
    add("emoji", "image", "thing 3", "train", source="emoji")
    return items


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return report(Oracle(), library())  # type: ignore[arg-type]


def pick(rows: list[Row], task: str, subset: str) -> Row:
    (row,) = [r for r in rows if r.task == task and r.subset == subset]
    return row


def test_every_direction_and_subset_has_a_row(rows: list[Row]) -> None:
    seen, held_out = GROUPS - GROUPS // 8, GROUPS // 8
    pictures = {
        f"seen captions, {CANDIDATES} captions",
        f"seen captions, {seen} captions",
        f"held-out captions, {held_out} captions",
    }
    sounds = {
        "seen clips",
        "held-out captions",
        "held-out voices, seen captions",
        "held-out voices, held-out captions",
        "sound effects, seen",
        "sound effects, held out",
        "en, seen clips",
        "fr, seen clips",
    }
    directions = {
        "image -> text": pictures,
        "text -> image": pictures,
        "sound -> text": sounds,
        "text -> sound": sounds,
        "sound -> image (never paired)": sounds,
    }
    assert {(r.task, r.subset) for r in rows} == {(task, s) for task, subsets in directions.items() for s in subsets}
    assert len(rows) == 2 * len(pictures) + 3 * len(sounds)


def test_rows_count_what_they_ask_of_what(rows: list[Row]) -> None:
    seen, held_out = GROUPS - GROUPS // 8, GROUPS // 8
    # of the seen captions the twin has a second picture; broken, symbolic and foreign pictures are out
    row = pick(rows, "image -> text", f"seen captions, {seen} captions").at_1
    assert (row.queries, row.candidates) == (seen + 1, seen)
    row = pick(rows, "text -> image", f"held-out captions, {held_out} captions").at_10
    assert (row.queries, row.candidates) == (held_out, held_out)
    row = pick(rows, "sound -> image (never paired)", "held-out voices, held-out captions").at_1
    assert (row.queries, row.candidates) == (held_out, GROUPS + 1)
    row = pick(rows, "sound -> text", "seen clips").at_1
    assert (row.queries, row.candidates) == (2 * seen, 2 * seen)  # English and French clips, a caption each
    row = pick(rows, "sound -> text", "sound effects, held out").at_1
    assert row.queries == len([n for n in range(0, GROUPS, 4) if split_of_number(n) == "test"])


def test_a_model_that_knows_everything_is_right_and_its_controls_are_at_chance(rows: list[Row]) -> None:
    for row in rows:
        if row.task in ("image -> text", "text -> image"):
            assert row.at_1.value == 1.0, row
        assert row.at_10.value == 1.0, row
        assert row.at_1.low <= row.at_1.value <= row.at_1.high + 1e-9
        assert row.at_1.shuffled < 0.15, row


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    for row in report(Oracle(blind=True), library()):  # type: ignore[arg-type]
        chance = 12 / row.at_10.candidates
        assert row.at_10.value <= chance + 0.35, row
        assert abs(row.at_10.value - row.at_10.shuffled) < 0.3, row


def test_clips_are_asked_for_in_their_own_language() -> None:
    model = Oracle()
    report(model, library())  # type: ignore[arg-type]
    assert "thing 1 en francais" in model.asked and "thing 1" in model.asked


def test_without_sound_only_pictures_are_measured() -> None:
    model = Oracle()
    model.modalities = ("text", "image")
    assert {r.task for r in report(model, library())} == {"image -> text", "text -> image"}  # type: ignore[arg-type]


def test_the_table_has_every_row(rows: list[Row]) -> None:
    lines = as_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == COLUMNS + 1 for line in lines)
    assert f"| {rows[0].at_1.value:.3f} ({rows[0].at_1.low:.3f}-" in lines[2]
    assert json.loads(json.dumps(rows[0].to_dict()))["at_1"]["value"] == rows[0].at_1.value


RECIPES = [f.name for f in (files("one_peace.recipes") / "pretrain").iterdir() if f.name.endswith(".yaml")]


@pytest.mark.parametrize("recipe", sorted(name for name in RECIPES if not name.startswith(("mico", "ofa", "vqgan"))))
def test_a_picture_is_never_paired_with_a_sound(recipe: str, tmp_path: Path) -> None:
    """What `(never paired)` claims: in no shipped stage of ONE-PEACE do pictures, sounds and videos meet in a pair."""
    chosen_partner = ["stage.partner=video"] if recipe == "further-modality.yaml" else []
    stage = load_recipe(recipe.removesuffix(".yaml"), chosen_partner).stage
    assert stage.anchor == "text" and stage.partner in ("image", "audio", "video")
    picture, sound, video = tmp_path / "thing 1.png", tmp_path / "thing 1.wav", tmp_path / "thing 1.webp"
    video.write_bytes(animation(grey_frames(3)))
    Image.new("RGB", (8, 8)).save(picture)
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((1000 * np.random.default_rng(0).standard_normal(20000)).astype("<i2").tobytes())
    items = []
    for item in library()[: 6 * 8]:
        path = picture if item.kind == "image" else sound
        items.append(Item(**{**item.__dict__, "path": path}))
        if item.kind == "image":
            items.append(Item(**{**item.__dict__, "kind": "video", "path": video}))
    chosen = captioned_items(items, stage.partner)
    assert chosen and {i.kind for i in chosen} == {stage.partner}
    text = tiny_processors()["text"]
    assert isinstance(text, TextProcessor)
    weights = DataRecipe({STAMPS: 1.0, "speech": 1.0})
    processor = tiny_processors().get(stage.partner, VideoProcessor(VideoConfig(32, 2)))
    sampler = PairSampler(chosen, text, weights, stage.partner, processor)
    for anchor, partner in sampler.batch(3, 0, 0):
        assert set(anchor) == {"tokens"}
        assert set(partner) == {{"image": "pixels", "audio": "waveform", "video": "frames"}[stage.partner]}
