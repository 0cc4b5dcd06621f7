"""Tables of pictures and words of the sample library, and of drawn shapes with questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from one_peace.data.manifest import Item
from one_peace.data.published.conversion import Converted, SplitRow
from one_peace.data.sample_library.packages import Package, fetch
from one_peace.data.sample_tasks.sources import Sources, side_of
from one_peace.errors import InputError

EASY_VQA = Package("pypi", "easy-vqa", "MIT")

CATEGORY_SIZE = 20  # pictures that a category needs to become a class


def stamp_categories(sources: Sources, out: Path) -> Converted:
    """What kind of thing a picture shows: the top folders of the stamps with 20 pictures or more."""
    return _pictures(sources.stamps(), lambda item: item.category.split("/")[0])


def emoji_groups(sources: Sources, out: Path) -> Converted:
    """Which group of Unicode's an emoji of the Noto style is in."""
    return _pictures(_noto(sources), lambda item: item.category.split("/")[1])


def emoji_keywords(sources: Sources, out: Path) -> Converted:
    """Which of Unicode's keywords an emoji of the Noto style has, of those that 20 of them have: several each."""
    counts = Counter(word for item in _noto(sources) for word in {*item.tags})
    words = sorted(name for name, count in counts.items() if count >= CATEGORY_SIZE and "," not in name)
    rows = []
    for item in _noto(sources):
        if own := [word for word in words if word in item.tags]:
            values = {"uniq_id": item.id, "image": str(item.path), "label": ",".join(own)}
            rows.append(SplitRow(side_of(item), values, ("image",)))
    return Converted(rows, {"labels.json": words})


def _noto(sources: Sources) -> list[Item]:
    noto = [i for i in sources.items if i.kind == "image" and i.source == "@iconify-json/noto"]
    if not noto:
        raise InputError("sample library", "holds no emoji; build it with all sources")
    return noto


def _pictures(items: Sequence[Item], label: Callable[[Item], str]) -> Converted:
    counts = Counter(label(item) for item in items)
    classes = sorted(name for name, count in counts.items() if count >= CATEGORY_SIZE)
    rows = [
        SplitRow(side_of(item), {"uniq_id": item.id, "image": str(item.path), "label": label(item)}, ("image",))
        for item in items
        if label(item) in classes
    ]
    return Converted(rows, {"labels.json": classes})


def captions(sources: Sources, out: Path) -> Converted:
    """English captions of the stamps, for retrieval; a caption is on one side only."""
    return _captions(sources.stamps())


def emoji_captions(sources: Sources, out: Path) -> Converted:
    """English names of the emoji of the Noto style, to draw them by; likewise."""
    return _captions(_noto(sources))


def _captions(items: Sequence[Item]) -> Converted:
    rows = []
    for item in items:
        values = {"image_id": item.id, "image": str(item.path), "caption": item.texts["en"][0]}
        rows.append(SplitRow(side_of(item), values, ("image",)))
    return Converted(rows)


def easy_vqa(sources: Sources, out: Path) -> Converted:
    """Questions about drawn shapes, made by the package's authors with a program (easy-vqa)."""
    root = fetch(EASY_VQA, sources.cache, progress=sources.say).files / "easy_vqa" / "data"
    answers = (root / "answers.txt").read_text(encoding="utf-8").split()
    rows = []
    for split in ("train", "test"):
        listed = json.loads((root / split / "questions.json").read_text(encoding="utf-8"))
        for number, (text, answer, image) in enumerate(listed):
            values = {
                "uniq_id": f"{split}/{number}",
                "image": str(root / split / "images" / f"{image}.png"),
                "question": text,
                "answer": answer,
            }
            rows.append(SplitRow(split, values, ("image",)))
    return Converted(rows, {"answers.json": answers})
