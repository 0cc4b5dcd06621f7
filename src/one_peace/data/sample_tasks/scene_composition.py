"""Scenes composed of real cut-outs: pictures with exact boxes, and phrases, questions and statements about them.

Pixels and words are real, the arrangement is not: every report on it says so.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from one_peace.data.manifest import Item
from one_peace.data.sample_library.packages import Fetched
from one_peace.data.sample_library.rasters import draw_svg, open_raster

if TYPE_CHECKING:
    from PIL import Image

SIDE = 192  # pixels of a scene
SMALLEST, LARGEST = 0.28, 0.5  # longer side of an object, of the scene's
_MOST_OVERLAP = 0.08  # of the smaller of two objects' boxes
_ATTEMPTS = 60
_MOST_BACKGROUNDS = 30


@dataclass(frozen=True)
class Thing:
    """An object of a scene: its name ("red apple"), and its box x0, y0, x1, y1 in pixels."""

    name: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def area(self) -> int:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it, in no particular order."""

    picture: Image.Image
    things: tuple[Thing, ...]

    def thing(self, name: str) -> Thing:
        """The one of this name."""
        return next(thing for thing in self.things if thing.name == name)


def cut_out(item: Item, package: Fetched) -> Image.Image:
    """A stamp as RGBA, cropped to what is visible of it.

    Raises:
        InputError: the original cannot be drawn.
    """
    folder = package.files / "usr" / "share" / "tuxpaint" / "stamps"
    original = folder / item.id.removeprefix("stamps/")
    raster, vector = (original.with_name(original.name + ending) for ending in (".png", ".svg"))
    image = open_raster(raster) if raster.is_file() else draw_svg(vector.read_text("utf-8", "replace"), str(vector))
    box = image.getchannel("A").point(lambda value: 255 if value >= 8 else 0).getbbox()
    image = image.crop(box) if box else image
    image.thumbnail((SIDE, SIDE), reducing_gap=2.0)  # originals may have thousands of pixels
    return image


def compose(
    cut_outs: Mapping[str, Image.Image], names: Sequence[str], rng: random.Random, background: Image.Image | None = None
) -> Scene:
    """A scene of the named objects, none hiding another, on a piece of a background or on a plain colour.

    There may be fewer objects than names where the last ones found no room.
    """
    from PIL import Image, ImageOps

    if background is None:
        shade = tuple(rng.randint(150, 255) for _ in range(3))
        canvas = Image.new("RGB", (SIDE, SIDE), shade)
    else:
        side = rng.randint(min(background.size) // 2, min(background.size))
        left, top = (rng.randint(0, length - side) for length in background.size)
        canvas = background.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BOX)
    things: list[Thing] = []
    for name in names:
        image = cut_outs[name]
        scale = rng.uniform(SMALLEST, LARGEST) * SIDE / max(image.size)
        width, height = (max(4, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            image = ImageOps.mirror(image)
        for _ in range(_ATTEMPTS):
            left, top = rng.randint(0, SIDE - image.width), rng.randint(0, SIDE - image.height)
            thing = Thing(name, (left, top, left + image.width, top + image.height))
            if all(_overlap(thing, other) <= _MOST_OVERLAP for other in things):
                canvas.paste(image, (left, top), image)
                things.append(thing)
                break
    return Scene(canvas, tuple(things))


def _overlap(first: Thing, second: Thing) -> float:
    """Common area, of the smaller one's."""
    width = min(first.box[2], second.box[2]) - max(first.box[0], second.box[0])
    height = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
    return max(width, 0) * max(height, 0) / min(first.area, second.area)


RELATIONS = ("left of", "right of", "above", "below")
_MARGIN = 0.15 * SIDE  # by which a relation must hold to be told


def relation(first: Thing, second: Thing) -> str | None:
    """Where the first one clearly is, seen from the second; None where it is not clear."""
    dx, dy = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if max(abs(dx), abs(dy)) < _MARGIN or abs(abs(dx) - abs(dy)) < _MARGIN / 2:
        return None
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def referring_phrase(scene: Scene, thing: Thing, rng: random.Random) -> str:
    """A phrase that means this thing and no other: its name, or what it stands beside."""
    others = [other for other in scene.things if other is not thing]
    rng.shuffle(others)
    if rng.random() < 0.3:
        for other in others:
            where = relation(thing, other)
            if where and sum(relation(t, other) == where for t in scene.things if t is not other) == 1:
                return f"the thing {where} the {other.name}"
    return f"the {thing.name}"


def question(scene: Scene, absent: str, rng: random.Random) -> tuple[str, str]:
    """(question, answer): whether a thing is there, how many there are, where one is seen from another."""
    kind = rng.choice(("there", "count", "where"))
    if kind == "count":
        return "how many things are there?", str(len(scene.things))
    if kind == "where":
        pairs = [(a, b, where) for a in scene.things for b in scene.things if a is not b and (where := relation(a, b))]
        if pairs:
            a, b, where = rng.choice(pairs)
            return f"where is the {a.name}, seen from the {b.name}?", where
    name, answer = (rng.choice(scene.things).name, "yes") if rng.random() < 0.5 else (absent, "no")
    return f"is there a {name}?", answer


def statement(first: Scene, second: Scene, absent: str, rng: random.Random) -> tuple[str, bool]:
    """(statement about two scenes, whether it is true), true in half of all cases."""
    true = rng.random() < 0.5
    names = [{thing.name for thing in scene.things} for scene in (first, second)]
    both, only = sorted(names[0] & names[1]), sorted(names[0] ^ names[1])
    kinds = ["left"]
    if both or not true:
        kinds.append("both")
    if only or not true:
        kinds.append("one")
    kind = rng.choice(kinds)
    if kind == "both":
        return f"there is a {rng.choice(both if true else [*only, absent])} in both pictures.", true
    if kind == "one":
        return f"only one picture shows a {rng.choice(only if true else [*both, absent])}.", true
    here = rng.choice(sorted(names[0]))
    other = rng.choice(sorted(names[1] - names[0]) or [absent])
    return f"the left picture shows a {here if true else other}.", true


def backgrounds(package: Fetched) -> list[Image.Image]:
    """The wallpapers of the package, small."""
    from PIL import Image

    found = sorted(p for p in package.files.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png") and p.is_file())
    made = []
    for path in _different(found)[:_MOST_BACKGROUNDS]:
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            picture = image.convert("RGB")
        picture.thumbnail((4 * SIDE, 4 * SIDE))
        if min(picture.size) >= SIDE:
            made.append(picture)
    return made


def _different(paths: list[Path]) -> list[Path]:
    """One of the files that are the same wallpaper in several sizes."""
    return [path for path in paths if not path.is_symlink()]
