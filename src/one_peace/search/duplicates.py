"""Near-duplicates: files that show, play or say the same thing, as copies of each other or saved twice.

Nearness of embeddings alone does not tell: to a small model unrelated drawings may be as near as two copies of one.
It finds candidates; what was stored to look at decides. Pictures must have the same 16 x 16 pixels but for light and
contrast, sounds the same length, texts the same words but for a few.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator
from itertools import islice

import numpy as np
from PIL import Image

from one_peace.search.filters import Condition, Filters
from one_peace.search.library import Library
from one_peace.search.records import Entry, Item, Record
from one_peace.search.stores.base import VectorStore

_NEIGHBOURS = 12  # of each row that are looked at; groups may be larger, for they are chained
_NEAR = {"image": 0.8, "audio": 0.98, "text": 0.9}  # cosine similarity of candidates
_PAIRS_AT_ONCE = 4000  # with their thumbnails, of which memory does not hold those of a large library
_SAME_PIXELS = 0.97  # correlation
_BLANK = 0.3  # of the length of a look, at most 28: no picture in it
_SAME_LENGTH = 0.02  # of the longer sound
_SAME_WORDS = 0.9  # share of characters in common
_GRID = 16


def find_duplicates(library: Library, filters: Filters | None = None) -> list[list[Item]]:
    """Groups of two or more items of one modality that are near-duplicates, the largest file of each first.

    Equal files count whatever they hold, others if they are pictures, sounds or texts of one part. In a library of
    n rows it takes n searches.
    """
    conditions = (*library.conditions(filters), Condition("part", "in", (0,)))
    groups = _Groups()
    entries: dict[str, Entry] = {}
    by_digest: dict[tuple[str, str], str] = {}
    for rows, vectors in library.store.vectors(conditions):
        entries |= {row.item: row for row in rows}
        for row in rows:
            groups.join(by_digest.setdefault((row.modality, row.digest), row.item), row.item)
        candidates = _candidates(library.store, rows, vectors, conditions)
        while pairs := list(islice(candidates, _PAIRS_AT_ONCE)):
            records = library.store.rows(list({id for pair in pairs for id in pair}))
            for first, second in pairs:
                if first in records and second in records and _alike(records[first], records[second]):
                    groups.join(first, second)
    found = [[Item.of(entries[id]) for id in group if id in entries] for group in groups.all()]
    ordered = [sorted(group, key=lambda item: (-item.size, item.path)) for group in found if len(group) > 1]
    return sorted(ordered, key=lambda group: group[0].path)


def _candidates(
    store: VectorStore, rows: list[Entry], vectors: np.ndarray, conditions: tuple[Condition, ...]
) -> Iterator[tuple[str, str]]:
    """Pairs of ids of rows that are whole items of the same modality, with near embeddings."""
    for modality, near in _NEAR.items():
        some = [i for i, row in enumerate(rows) if row.modality == modality and row.parts == 1]
        if not some:
            continue
        where = (*conditions, Condition("modality", "in", (modality,)), Condition("parts", "in", (1,)))
        for i, hits in zip(some, store.search(vectors[some], _NEIGHBOURS + 1, where), strict=True):
            yield from ((rows[i].id, hit.id) for hit in hits if hit.score >= near and hit.id != rows[i].id)


def _alike(first: Record, second: Record) -> bool:
    """Whether two items with near embeddings are the same to look at."""
    a, b = first.entry, second.entry
    if a.modality == "image":
        return bool(first.thumbnail and second.thumbnail and _same_pixels(first.thumbnail, second.thumbnail))
    if a.modality == "audio":
        lengths = a.duration or 0.0, b.duration or 0.0
        return abs(lengths[0] - lengths[1]) <= _SAME_LENGTH * max(lengths)
    return difflib.SequenceMatcher(None, a.caption.lower(), b.caption.lower()).ratio() >= _SAME_WORDS


def _same_pixels(first: bytes, second: bytes) -> bool:
    looks = [_look(thumbnail) for thumbnail in (first, second)]
    lengths = [float(np.linalg.norm(look)) for look in looks]
    if min(lengths) < _BLANK:  # of one colour
        return max(lengths) < _BLANK
    return float((looks[0] * looks[1]).sum()) / (lengths[0] * lengths[1]) >= _SAME_PIXELS


def _look(thumbnail: bytes) -> np.ndarray:
    """(grid, grid, 3), of 1, without the mean."""
    picture = Image.open(io.BytesIO(thumbnail)).convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    pixels = np.asarray(picture, np.float64) / 255
    return pixels - pixels.mean()


class _Groups:
    """Ids, joined in pairs to groups."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def join(self, first: str, second: str) -> None:
        self._above[self._top(first)] = self._top(second)

    def all(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for id in self._above:
            groups.setdefault(self._top(id), []).append(id)
        return list(groups.values())

    def _top(self, id: str) -> str:
        path = [id]
        while (above := self._above.setdefault(path[-1], path[-1])) != path[-1]:
            path.append(above)
        for passed in path:
            self._above[passed] = path[-1]
        return path[-1]
