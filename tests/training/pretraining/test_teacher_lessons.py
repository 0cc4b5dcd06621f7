"""New text and picture sides learn from teachers, go on after an interruption, and never meet a held-out caption."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from one_peace.data.manifest import Item
from one_peace.data.pairs import DataRecipe
from one_peace.data.sample_library.packages import Package, package_folder
from one_peace.data.wordnet import PACKAGE as WORDNET
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.presets import preset
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT
from one_peace.training.micro_batches import slot_seed
from one_peace.training.pretraining import teacher_lessons
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.run import run_pretraining
from one_peace.training.pretraining.teacher_lessons import Space, TeacherLessons, TeacherTexts, mixed, teacher_texts
from one_peace.training.recipe import EngineRecipe
from one_peace.training.teachers.picture_teacher import PACKAGE as PICTURES
from one_peace.training.teachers.sentence_teacher import PACKAGE as SENTENCES
from teacher_packages import REFERENCE, picture_weights
from tiny_models import CAPTIONS, CONFIG, tiny_model, tiny_pairs, tiny_processors

PROCESSORS = tiny_processors()
LEXICON = ("horse", "A boat.", "what gives light", "fruit", "what feet wear")


class Letters(nn.Module):
    """Says of a text which letters it has."""

    def forward(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(torch.tensor([[float(text.count(chr(97 + n))) for n in range(26)] for text in texts]), dim=1)


class Colours(nn.Module):
    """Says of a picture (batch, 3, height, width), 0 to 255, the colour of its quarters."""

    def forward(self, pictures: Tensor) -> Tensor:
        assert pictures.min() >= 0 and 2 < pictures.max() <= 255
        return F.adaptive_avg_pool2d(pictures.float(), 2).flatten(1) / 255


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_lessons, "TEXTS", 20)
    monkeypatch.setattr(teacher_lessons, "PICTURES", 5)
    monkeypatch.setattr(teacher_lessons, "WARMUP", 5)


def painted(folder: Path) -> list[Path]:
    """A picture of one colour for each of the captions."""
    paths = []
    for number in range(len(CAPTIONS)):
        colour = tuple(torch.randint(0, 256, (3,), generator=torch.Generator().manual_seed(number)).tolist())
        paths.append(folder / f"{number}.png")
        Image.new("RGB", (64, 64), colour).save(paths[-1])
    return paths


def item(path: Path, caption: str, split: str = "train", **others: Any) -> Item:
    texts = {"en": [caption]} | others.pop("texts", {})
    return Item(path.stem, "image", path, caption, split, "pictures", "1", "CC0", texts, **others)  # type: ignore[arg-type]


def lessons(folder: Path, steps: int, rows: list[dict[str, Any]] | None = None, **others: Any) -> TeacherLessons:
    own = [
        (item(path, caption), row, 1.0)
        for row, (path, caption) in enumerate(zip(painted(folder), CAPTIONS, strict=True))
    ]
    texts = TeacherTexts(LEXICON, CAPTIONS, [("zwei Boote", 1), ("Lampe", 3)], own)
    stage = dataclasses.replace(IMAGE_TEXT, teacher_steps=steps)
    recipe = PretrainRecipe(model="nano", stage=stage, steps=1, batch_size=2, seed=1, **others)
    return TeacherLessons(
        tiny_model(config=dataclasses.replace(CONFIG, drop_path=0.3)),
        recipe,
        PROCESSORS,
        lambda size, seed, step: tiny_pairs(PROCESSORS, "image", 1000 * seed + step)[:size],
        texts,
        Letters(),  # type: ignore[arg-type]
        Colours(),  # type: ignore[arg-type]
        ([] if rows is None else rows).append,
        folder / "lessons",
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_sides_come_to_say_what_the_teachers_say(tmp_path: Path, precision: str) -> None:
    rows: list[dict[str, Any]] = []
    learned = lessons(tmp_path, 150, rows, engine=EngineRecipe(precision)).give()
    assert [row["teacher_step"] for row in rows] == [50, 100, 150]
    assert rows[-1]["texts"] > max(0.8, rows[0]["texts"]) and rows[-1]["pictures"] > rows[0]["pictures"]
    encoder = {f"encoder.{name}" for name, _ in tiny_model().encoder.named_parameters()}
    assert learned.keys() == encoder and all(value.dtype == torch.float32 for value in learned.values())


def test_texts_lie_where_the_sentence_teacher_has_them(tmp_path: Path) -> None:
    given = lessons(tmp_path, 0)
    given.give()
    said = Letters()(CAPTIONS)
    for _, (texts, where, _) in zip("abc", given.groups, strict=True):
        assert len(texts) == len(where)
    torch.testing.assert_close(given.groups[1][1].float(), given.space.of_texts(said), atol=1e-3, rtol=0)
    assert torch.equal(given.groups[2][1], given.groups[1][1][[1, 3]])  # a translation where its caption lies


@pytest.mark.parametrize("stopped", [1, 2, 5])  # a state every other step
def test_an_interruption_changes_nothing(tmp_path: Path, stopped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seed: int, step: int, slot: int) -> int:
        if step == stopped:
            raise KeyboardInterrupt
        steps.append(step)
        return slot_seed(seed, step, slot)

    steps: list[int] = []
    whole = lessons(make(tmp_path / "whole"), 6, save_every=2).give()
    monkeypatch.setattr(teacher_lessons, "slot_seed", stop)
    with pytest.raises(KeyboardInterrupt):
        lessons(make(tmp_path / "stopped"), 6, save_every=2).give()
    stopped, first = -1, stopped - stopped % 2
    steps.clear()
    resumed = lessons(tmp_path / "stopped", 6, save_every=2).give()
    assert sorted(set(steps)) == list(range(first, 6))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_map_finds_the_captions_of_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 12, generator=generator)
    captions = F.normalize(features @ torch.randn(12, 8, generator=generator) + 1, dim=1)
    space = Space.fit(captions, captions[:50], features, torch.ones(400), width=6)
    alike = (space.of_texts(captions) * space.of_pictures(features)).sum(1)
    shuffled = (space.of_texts(captions) * space.of_pictures(features.roll(1, 0))).sum(1)
    assert alike.mean() > 0.8 and shuffled.mean().abs() < 0.2


def test_weights_of_pairs_count() -> None:
    features, captions = torch.tensor([[0.0], [0.0], [1.0]]), torch.eye(3)
    for often in (0, 1):
        weights = torch.where(torch.arange(3) == often, 9.0, 1.0)
        space = Space.fit(captions, captions, features, weights, width=3)
        near = space.of_texts(captions) @ space.of_pictures(torch.zeros(1, 1))[0]
        assert near[:2].argmax() == often


def test_a_space_wider_than_what_the_teacher_says_stays_empty_beyond() -> None:
    generator = torch.Generator().manual_seed(0)
    captions = F.normalize(torch.randn(20, 4, generator=generator), dim=1)
    space = Space.fit(captions, captions, torch.randn(20, 3, generator=generator), torch.ones(20), width=7)
    placed = space.of_texts(captions)
    assert placed.shape == (20, 7) and not placed[:, 4:].any()
    torch.testing.assert_close(placed.norm(dim=1), torch.ones(20))


def test_pictures_are_mixed_with_one_another() -> None:
    pictures = torch.arange(200.0).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    result = mixed(pictures, torch.Generator().manual_seed(0))
    plain = (result == pictures).flatten(1).all(1)
    flat = (result == result[:, :, :1, :1]).flatten(1).all(1) & ~plain  # of one other value: two shine through
    assert 100 < plain.sum() < 140 and 20 < flat.sum() < 60
    own = (result == pictures).flatten(1).float().mean(1)[~plain & ~flat]
    assert torch.equal(own, torch.full_like(own, 0.5))  # the rest shows half of itself


def test_nothing_held_out_is_read(tmp_path: Path) -> None:
    paths = painted(tmp_path)
    items = [
        item(paths[0], "An owl.", tags=["bird", "lion"], texts={"fr": ["Un hibou.", "Un lion."], "de": ["Eule"]}),
        item(paths[1], "A lion.", "test", texts={"fr": ["Un lion."]}),
        dataclasses.replace(item(paths[2], "A cat."), source="others"),
        item(paths[3], "A dog.", texts={"en": ["Lion", "A dog."]}),
    ]
    recipe = DataRecipe(sources={"pictures": 2.0}, languages={"en": 1.0, "fr": 1.0})
    texts = teacher_texts(items, recipe, ["owl", "LION", "A lion.", "a big cat, the lion"])
    assert list(texts.lexicon) == ["owl", "a big cat, the lion"]
    assert list(texts.captions) == ["An owl.", "bird", "A dog."]
    assert list(texts.translations) == [("Un hibou.", 0)]
    assert [(one.id, row, weight) for one, row, weight in texts.pictures] == [("0", 0, 2.0), ("3", 2, 2.0)]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """The teachers' packages and WordNet's as if they had been fetched."""
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))

    def files(package: Package) -> Path:
        folder = package_folder(package, tmp_path / "cache")
        (folder / "files").mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": package.name, "version": "1", "sha256": ""}))
        return folder / "files"

    torch.save(picture_weights(torch.Generator().manual_seed(0)), files(PICTURES) / "efficientnet-lite0-1.pth")
    shutil.copytree(REFERENCE / "sentence", files(SENTENCES) / "model")
    place = files(WORDNET)
    for part in ("noun", "verb", "adj", "adv"):
        (place / f"data.{part}").write_text("1 05 n 01 red_owl 0 000 | large bird that is hooting\n")
    return lambda: tmp_path / "cache"


def test_a_run_begins_with_them(tmp_path: Path, packages: object) -> None:
    items = [item(path, caption) for path, caption in zip(painted(tmp_path), CAPTIONS, strict=True)]
    stage = dataclasses.replace(IMAGE_TEXT, teacher_steps=2)
    data = DataRecipe(sources={"pictures": 1.0})
    recipe = PretrainRecipe(
        model="nano", stage=stage, steps=1, batch_size=2, vocabulary=270, data=data, log_every=1, save_every=1
    )
    rows: list[dict[str, Any]] = []
    run = partial(run_pretraining, items=items, out=tmp_path / "run", device="cpu", report=rows.append)
    run(recipe)
    assert [next(iter(row)) for row in rows] == ["items", "teacher_step", "step", "items"]
    model = from_pretrained(tmp_path / "run" / "model")
    assert model.encode_text(["an owl"]).shape == (1, preset("nano").width)
    assert not (tmp_path / "run" / "lessons").exists()
    rows.clear()
    run(dataclasses.replace(recipe, steps=2))
    assert [next(iter(row)) for row in rows] == ["items", "step", "items"]  # the lessons are not given again


def test_where_they_cannot_be_given() -> None:
    with pytest.raises(ValueError, match=r"stage\.teacher_steps: for a stage of pictures that trains text too"):
        dataclasses.replace(AUDIO_TEXT, teacher_steps=1)
    stage = dataclasses.asdict(IMAGE_TEXT) | {"teacher_steps": 1}
    files = {"own": {"path": "pairs.tsv"}}
    with pytest.raises(ValueError, match=r"stage\.teacher_steps: for pictures of the sample library, not for files"):
        PretrainRecipe.from_dict({"model": "nano", "stage": stage, "steps": 1, "batch_size": 2, "files": files})
