"""From a query to answers: its parts embedded and mixed into one direction, items ranked along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.errors import InputError
from one_peace.search.calibration import KeptCalibration
from one_peace.search.encoding import Encoder
from one_peace.search.filters import Condition, Filters
from one_peace.search.queries import ITEM, Part, Query, QueryError, mix
from one_peace.search.ranking import Ranked, rank_items
from one_peace.search.reading import is_still
from one_peace.search.records import Result
from one_peace.search.stores.base import VectorStore


@dataclass(frozen=True, eq=False)
class Searcher:
    """Answers from the rows of `store`, which are `model`'s; `library` is what errors call the place by."""

    model: Encoder
    store: VectorStore
    calibration: KeptCalibration
    library: Path

    def answer(self, query: Query) -> list[Result]:
        """The items nearest to a query that was checked; its filters name what there is.

        Raises:
            QueryError: an unknown item, parts that cancel out, nothing to rerank by, or a file that cannot be read for
                that.
            InputError: an input that cannot be used.
        """
        parts = list(zip(query.parts, self._embed(query.parts), strict=True))
        mixed = mix([(part.weight, vector) for part, vector in parts])
        shown = tuple(str(part.source) for part in query.parts if part.modality == ITEM)
        narrowed = replace(query.filters, exclude=(*query.filters.exclude, *shown))
        ranked = self._ranked(mixed, max(query.k, query.rerank), narrowed, query.calibrate)
        if query.rerank:
            from one_peace.search.reranking import rerank as joint_order

            try:
                ranked = joint_order(self.model, parts, ranked[: query.rerank], _source) + ranked[query.rerank :]
            except InputError as error:  # the parts were embedded; clients are told no paths of ours
                raise QueryError("rerank", f"the file of an answer {error.problem}; index its folder again") from error
        return _results(ranked[: query.k], [vector for _, vector in parts])

    def nearest(self, direction: np.ndarray, k: int, filters: Filters, calibrate: bool) -> list[Result]:
        """The k items nearest to a vector (dim,)."""
        return _results(self._ranked(mix([(1.0, direction)]), k, filters, calibrate), [direction])

    def _embed(self, parts: Sequence[Part]) -> list[np.ndarray]:
        """The embedding (dim,) of each part, of unit length."""
        vectors: list[np.ndarray] = [np.empty(0)] * len(parts)
        for modality in dict.fromkeys(part.modality for part in parts):
            places = [i for i, part in enumerate(parts) if part.modality == modality]
            sources = [parts[i].source for i in places]
            if modality == ITEM:
                found = [self._item_vector(source) for source in sources]
            else:
                encoded = self.model.encode_modality(modality, sources, progress=False, on_error="raise")
                found = list(np.asarray(encoded, np.float32))
            for place, vector in zip(places, found, strict=True):
                vectors[place] = vector
        return vectors

    def _item_vector(self, id: Any) -> np.ndarray:
        """The unit-length mean of an item's rows."""
        rows = self.store.entries((Condition("item", "in", (str(id),)),))
        records = self.store.rows([row.id for row in rows])
        if not records:
            raise QueryError(ITEM, f"there is no item {id!r} in {self.library.name}")
        return mix([(1 / len(records), record.vector) for record in records.values()])

    def _ranked(self, direction: np.ndarray, k: int, filters: Filters, calibrate: bool) -> list[Ranked]:
        calibration = self.calibration.latest(self.store)
        return rank_items(self.store, calibration, direction, k, filters.conditions(), calibrate)


def _source(one: Ranked) -> Any:
    """What the model is shown of an answer, its file; None if that is not what was indexed any more, or but a part."""
    entry = one.row.entry
    whole = entry.modality == entry.branch and entry.parts == 1
    return Path(entry.path) if whole and is_still(entry) else None


def _results(ranked: Sequence[Ranked], parts: Sequence[np.ndarray]) -> list[Result]:
    return [one.result(rank, parts) for rank, one in enumerate(ranked, start=1)]
