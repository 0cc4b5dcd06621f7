"""Scenes of real cut-outs on real backgrounds, and tables of where things are in them and what is true of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from one_peace.data.manifest import Item
from one_peace.data.published.conversion import Converted, SplitRow
from one_peace.data.sample_library import stamps
from one_peace.data.sample_library.packages import Fetched, Package, fetch
from one_peace.data.sample_library.rasters import save
from one_peace.data.sample_tasks import scene_composition
from one_peace.data.sample_tasks.sources import Sources
from one_peace.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

BACKGROUNDS = Package("debian", "mate-backgrounds", "GPL-2.0-or-later AND CC-BY-SA-4.0")

TRAINING_SCENES, TEST_SCENES = 4000, 500
ANSWERS = ["yes", "no", "1", "2", "3", "4", *scene_composition.RELATIONS]


def scene_boxes(sources: Sources, out: Path) -> Converted:
    """Where a thing is that a phrase means: new scenes of known things (`test`), and of things never trained on
    (`unseen`)."""

    def rows() -> Iterator[SplitRow]:
        for split, number, scene, rng, path in compose_scenes(sources, out, ("train", "test", "unseen")):
            thing = rng.choice(scene.things)
            values = {
                "uniq_id": f"{split}/{number}",
                "image": str(path),
                "text": scene_composition.referring_phrase(scene, thing, rng),
                "region_coord": ",".join(map(str, thing.box)),
            }
            yield SplitRow(split, values, ("image",))

    return Converted(rows())


def scene_questions(sources: Sources, out: Path) -> Converted:
    """Whether a thing is there, how many there are, where one is seen from another."""
    names = short_names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        for split, number, scene, rng, path in compose_scenes(sources, out, ("train", "test")):
            present = {thing.name for thing in scene.things}
            text, answer = scene_composition.question(scene, rng.choice([n for n in names if n not in present]), rng)
            values = {"uniq_id": f"{split}/{number}", "image": str(path), "question": text, "answer": answer}
            yield SplitRow(split, values, ("image",))

    return Converted(rows(), {"answers.json": ANSWERS})


def scene_pairs(sources: Sources, out: Path) -> Converted:
    """Whether a statement about two scenes is true; half of them are."""
    names = short_names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        made = compose_scenes(sources, out, ("train", "test"), alike=True)
        for (split, number, first, rng, left), (_, _, second, _, right) in zip(made, made, strict=False):
            present = {thing.name for scene in (first, second) for thing in scene.things}
            absent = rng.choice([name for name in names if name not in present])
            text, true = scene_composition.statement(first, second, absent, rng)
            values = {
                "uniq_id": f"{split}/{number}",
                "text": text,
                "image1": str(left),
                "image2": str(right),
                "label": str(true),
            }
            yield SplitRow(split, values, ("image1", "image2"))

    return Converted(rows())


def short_names(items: Sequence[Item]) -> list[str]:
    """Short names of things, one per caption: "A red apple." is a red apple."""
    return sorted({item.group for item in items if item.group.count(" ") < 3 and item.group.isascii()})


def compose_scenes(
    sources: Sources, out: Path, splits: Sequence[str], alike: bool = False
) -> Iterator[tuple[str, int, scene_composition.Scene, random.Random, Path]]:
    """(split, number, scene, generator, file) of every scene; `alike` lets two in a row share a thing or two."""
    package = fetch(stamps.PACKAGE, sources.cache, progress=sources.say)
    papers = scene_composition.backgrounds(fetch(BACKGROUNDS, sources.cache, progress=sources.say))
    for split in splits:
        items = sources.stamps("test" if split == "unseen" else "train")
        cut_outs = _cut_outs(items, package)
        names = sorted(cut_outs)
        count = TRAINING_SCENES if split == "train" else TEST_SCENES
        before: list[str] = []
        sources.say(f"composing {count * (1 + alike)} scenes for {split}")
        for number in range(count * (1 + alike)):
            rng = random.Random(f"{split} {number}")
            chosen = rng.sample(names, rng.randint(2, 4))
            if alike and number % 2 and rng.random() < 0.7:
                chosen = [rng.choice(before), *(name for name in chosen if name not in before)]
            background = rng.choice(papers) if papers and rng.random() < 0.7 else None
            scene = scene_composition.compose(cut_outs, chosen, rng, background)
            before = [thing.name for thing in scene.things]
            path = out / "pictures" / split / f"{number:05d}.png"
            if not path.is_file():
                save(scene.picture, path)
            yield split, number, scene, rng, path


def _cut_outs(items: Sequence[Item], package: Fetched) -> dict[str, Image.Image]:
    """One cut-out per short name; those that cannot be drawn are left out."""
    names = set(short_names(items))
    made: dict[str, Image.Image] = {}
    for item in items:
        if item.group in names and item.group not in made:
            try:
                made[item.group] = scene_composition.cut_out(item, package)
            except InputError:
                continue
    return made
