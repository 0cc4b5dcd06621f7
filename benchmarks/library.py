"""Reranking, near-duplicates and zero-shot tags of a library: `python benchmarks/library.py [--model one-peace-nano]`.

On the Tux Paint stamps of the sample library, whose captions were trained on or held out. Texts look for their picture
with and without reranking; copies of every picture, changed in one way at a time, are looked for as near-duplicates;
pictures are tagged by captions and by kinds of things, beside a guess. With 95 % intervals: Wilson's, the bootstrap's
for differences. Writes results/library-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging.figures import Hits, difference, estimate
from measure import machine, write_result
from PIL import Image, ImageOps

from one_peace import from_pretrained
from one_peace.data.manifest import Item
from one_peace.data.sample_library.building import build_sample_library
from one_peace.media.pictures import decode_picture
from one_peace.search.duplicates import find_duplicates
from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.tagging import tag_items
from one_peace.tasks.sample_library import STAMPS

RERANKED = 20
NEAR = 0.97  # cosine similarity that copies have
KINDS = {  # folder of the stamps -> what it holds; the first that fits
    "animals/birds": "bird",
    "animals/fish": "fish",
    "animals/insects": "insect",
    "animals": "animal",
    "food/fruit": "fruit",
    "plants/flowers": "flower",
    "vehicles": "vehicle",
    "military/vehicles": "vehicle",
}


def _cropped(picture: Image.Image, share: float) -> Image.Image:
    return picture.crop(
        (
            round(picture.width * share),
            round(picture.height * share),
            round(picture.width * (1 - share)),
            round(picture.height * (1 - share)),
        )
    )


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half as wide and high": lambda picture: picture.reduce(2),
    "2 % off every edge": lambda picture: _cropped(picture, 0.02),
    "15 % off every edge": lambda picture: _cropped(picture, 0.15),
    "mirrored": ImageOps.mirror,
}
QUALITY = 50  # of the JPEG that a copy is saved as


def measure(library: Library, pictures: Sequence[Item], folder: Path) -> dict[str, Any]:
    """All three, on a library that is empty yet. Copies of pictures are written to `folder`."""
    library.add([(p.path, p.texts["en"][0], [_side(p)]) for p in pictures], progress=False)
    return {
        "pictures": len(library),
        "reranking": [reranking(library, pictures, side) for side in ("seen", "held out")],
        "tags": [caption_tags(library, pictures), kind_tags(library, pictures)],
        "near_pairs_of_different_captions": near_pairs(library, pictures),
        "duplicates": duplicates(library),
        "copies": [copies(library, pictures, name, folder) for name in CHANGES],
    }


def reranking(library: Library, pictures: Sequence[Item], side: str) -> dict[str, Any]:
    """How often the right picture comes first for each caption of a side, among the pictures of that side."""
    groups = {str(p.path): p.group for p in pictures if _side(p) == side}
    captions = {p.group: p.texts["en"][0] for p in reversed(pictures) if _side(p) == side}

    def first(caption: str, rerank: int) -> str:
        (best,) = library.search(text=caption, k=1, filters=Filters(tag=(side,)), rerank=rerank)
        return groups[str(best.path)]

    plain, again = (
        _hits((group, first(caption, rerank) == group) for group, caption in captions.items())
        for rerank in (0, RERANKED)
    )
    return {
        "captions": side,
        "texts": len(captions),
        "pictures": len(groups),
        "plain": asdict(estimate(plain)),
        "reranked": asdict(estimate(again)),
        "gain": asdict(difference(again, plain)),
    }


def near_pairs(library: Library, pictures: Sequence[Item]) -> int:
    """Pairs of pictures with different captions whose embeddings are as near as those of copies."""
    groups = {str(p.path): p.group for p in pictures}
    found = _vectors(library)
    vectors, names = np.stack([*found.values()]), np.array([groups[path] for path in found])
    return int(np.triu((vectors @ vectors.T > NEAR) & (names[:, None] != names[None]), 1).sum())


def duplicates(library: Library) -> list[dict[str, str]]:
    """The groups among the pictures themselves: file -> caption."""
    return [{"/".join(item.path.parts[-3:]): item.caption for item in group} for group in find_duplicates(library)]


def copies(library: Library, pictures: Sequence[Item], name: str, folder: Path) -> dict[str, Any]:
    """How many of the copies of all pictures, changed in one way, are found to be what they are copies of."""
    places = {}
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.jpg"
        CHANGES[name](decode_picture(picture.path)).save(path, quality=QUALITY)
        places[str(path)] = picture
    library.add([(path, "") for path in places], progress=False)
    together = {str(item.path): group for group in find_duplicates(library) for item in group}
    others = {p: [str(item.path) for item in together.get(p, ())] for p in places}
    found = _hits((path, str(picture.path) in others[path]) for path, picture in places.items())
    groups = {str(p.path): p.group for p in pictures}
    wrong = _hits(
        (path, any(groups.get(other, picture.group) != picture.group for other in others[path]))
        for path, picture in places.items()
    )
    vectors = _vectors(library)
    near = _hits((path, bool(vectors[path] @ vectors[str(p.path)] > NEAR)) for path, p in places.items())
    library.remove(item.id for item in library.items() if str(item.path) in places)
    return {
        "change": name,
        "copies": len(places),
        "found": asdict(estimate(found)),
        "with_another_thing": asdict(estimate(wrong)),
        "near": asdict(estimate(near)),
    }


def caption_tags(library: Library, pictures: Sequence[Item]) -> dict[str, Any]:
    """Pictures that were trained on, tagged by their captions."""
    return _tagged(library, {str(p.path): p.texts["en"][0] for p in pictures if _side(p) == "seen"}, "captions")


def kind_tags(library: Library, pictures: Sequence[Item]) -> dict[str, Any]:
    """Pictures tagged by what kind of thing they show."""
    kinds = ((p, next((kind for folder, kind in KINDS.items() if p.category.startswith(folder)), "")) for p in pictures)
    return _tagged(library, {str(p.path): kind for p, kind in kinds if kind}, "kinds")


def _tagged(library: Library, right: dict[str, str], name: str) -> dict[str, Any]:
    labels = Counter(" ".join(label.split()) for label in right.values())
    tags = {str(one.path): one.labels[0][0] for one in tag_items(library, list(labels))}
    hits = _hits((path, tags[path] == " ".join(label.split())) for path, label in right.items())
    return {
        "labels": name,
        "number": len(labels),
        "pictures": len(right),
        "right": asdict(estimate(hits)),
        "most_frequent": max(labels.values()) / len(right),
    }


def _vectors(library: Library) -> dict[str, np.ndarray]:
    """By path."""
    return {row.path: vector for rows, found in library.vectors() for row, vector in zip(rows, found, strict=True)}


def _side(picture: Item) -> str:
    return "seen" if picture.split == "train" else "held out"


def _hits(right: Iterable[tuple[str, bool]]) -> Hits:
    keys, hits = zip(*right, strict=True)
    return Hits(list(keys), torch.tensor(hits, dtype=torch.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="one-peace-nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    items = build_sample_library(options.library, ("stamps",), progress=print).items
    pictures = [i for i in items if i.kind == "image" and i.source == STAMPS and not i.symbol]
    model = from_pretrained(options.model)
    facts = machine(torch.device("cpu")) | {"model": options.model, "fingerprint": model.fingerprint}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copies"
        folder.mkdir()
        record = measure(Library(Path(name) / "library", model, options.model), pictures, folder)
    print(json.dumps(record, indent=1, ensure_ascii=False))
    print(write_result("library", facts | record))


if __name__ == "__main__":
    main()
