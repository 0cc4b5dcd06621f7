"""Zero-shot tags: which of given labels fit the items of a library, by nothing but the words of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.queries import QueryError


@dataclass(frozen=True)
class Tagged:
    """An item and the labels that fit it, best first, each with its cosine similarity to the item."""

    id: str
    path: Path
    labels: tuple[tuple[str, float], ...]


def tag_items(
    library: Library, labels: Sequence[str], *, best: int = 1, least: float = -1.0, filters: Filters | None = None
) -> Iterator[Tagged]:
    """The `best` labels of every item that passes, if they score `least` or more; ordered by path.

    Of an item with several parts each label counts with the part that fits it best.

    Raises:
        QueryError: no labels, an empty one, one given twice, `best` < 1, or `least` is not in -1..1.
    """
    named = check_labels(labels, best, least)
    words = np.asarray(library.model.encode_modality("text", named, progress=False, on_error="raise"), np.float32)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for entries, vectors in library.vectors(filters):
        for entry, scores in zip(entries, vectors @ words.T, strict=True):  # (labels,)
            path, before = found.get(entry.item, (entry.path, scores))
            found[entry.item] = (path, np.maximum(before, scores))
    for item, (path, scores) in sorted(found.items(), key=lambda one: one[1][0]):
        order = np.argsort(-scores, kind="stable")[:best]
        fitting = tuple((named[i], float(scores[i])) for i in order if scores[i] >= least)
        yield Tagged(item, Path(path), fitting)


def check_labels(labels: Sequence[str], best: int, least: float) -> list[str]:
    """The labels without space around them. Raises as `tag_items`, which calls it."""
    named = [" ".join(label.split()) for label in labels]
    if not named or not all(named):
        raise QueryError("labels", "give words to choose from, none of them empty")
    if len(set(named)) < len(named):
        raise QueryError("labels", f"{max(named, key=named.count)!r} is there twice")
    if best < 1:
        raise QueryError("best", f"must be at least 1, got {best}")
    if not -1 <= least <= 1:
        raise QueryError("least", f"a cosine similarity is from -1 to 1, got {least}")
    return named
