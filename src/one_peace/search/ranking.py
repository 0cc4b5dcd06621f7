"""From a direction in the shared space to items in order: the best part of each, branches ranked fairly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from one_peace.search.calibration import Calibration
from one_peace.search.encoding import item_of
from one_peace.search.filters import Condition
from one_peace.search.records import Hit, Record, Result
from one_peace.search.stores.base import VectorStore

_WIDEN = 4  # asked for so many times as many rows, while they belong to too few items
_MOST_ROWS = 100_000


@dataclass(frozen=True, eq=False)
class Ranked:
    """An item, by its best row: the cosine similarity with the query, and how far that stands out in its branch."""

    row: Record
    score: float
    standing: float

    def result(self, rank: int, parts: Sequence[np.ndarray]) -> Result:
        """As users see it, with its similarity to each part (dim,) of the query."""
        entry = self.row.entry
        return Result(
            rank=rank,
            score=self.score,
            path=Path(entry.path),
            modality=entry.modality,
            caption=entry.caption,
            duration=entry.duration,
            thumbnail=self.row.thumbnail,
            id=entry.item,
            tags=entry.tags,
            size=entry.size,
            mtime=entry.mtime,
            standing=self.standing,
            why=tuple(float(self.row.vector @ vector) for vector in parts),
            label=entry.label,
            start=entry.start,
        )


def rank_items(
    store: VectorStore, calibration: Calibration, query: np.ndarray, k: int, where: Sequence[Condition], calibrate: bool
) -> list[Ranked]:
    """The k best items for a query (dim,) of unit length, best first, among the rows that pass.

    Ordered by standing if `calibrate`, else by score; equal ones by id.
    """
    if calibrate and len(calibration.branches) > 1:
        known = tuple(calibration.branches)
        groups = [Condition("branch", "in", (branch,)) for branch in known]
        groups.append(Condition("branch", "in", known, negated=True))  # branches that are new since it was measured
        hits = [hit for group in groups for hit in _best_rows(store, query, k, (*where, group))]
    else:
        hits = _best_rows(store, query, k, where)
    rows = store.rows([hit.id for hit in hits])
    # A row may have been removed by another process since.
    ranked = [(rows[hit.id], hit.score) for hit in hits if hit.id in rows]
    usual = {branch: calibration.usual(query, branch) for branch in {row.entry.branch for row, _ in ranked}}
    found = []
    for row, score in ranked:
        mean, deviation = usual[row.entry.branch]
        found.append(Ranked(row, score, (score - mean) / deviation))
    found.sort(key=lambda one: (-(one.standing if calibrate else one.score), one.row.entry.id))
    best = {one.row.entry.item: one for one in reversed(found)}  # of equal keys the last one stays
    return [one for one in found if best[one.row.entry.item] is one][:k]


def _best_rows(store: VectorStore, query: np.ndarray, k: int, where: Sequence[Condition]) -> list[Hit]:
    """The best row of each of the k best items."""
    wanted = k
    while True:
        hits = store.search(query[None], wanted, where)[0]
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(item_of(hit.id), hit)
        if len(best) >= k or len(hits) < wanted or wanted >= _MOST_ROWS:
            return list(best.values())[:k]
        wanted = min(_WIDEN * wanted, _MOST_ROWS)
