"""The vectors of a store at one moment, held in memory and scanned exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from one_peace.search.exact import ExactScan
from one_peace.search.records import Hit

EXACT_LIMIT = 200_000
"""Rows up to which a store scans all vectors for every search: that takes milliseconds, and misses nothing."""


class Snapshot:
    """Rows with what searches filter by. Equal scores are ordered by id.

    Args:
        vectors: (n, dim) float32 of unit length, in the order of the other three.
    """

    def __init__(
        self, ids: Sequence[str], paths: Sequence[str], modalities: Sequence[str], vectors: np.ndarray
    ) -> None:
        order = np.asarray(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
        self._ids = [ids[i] for i in order]
        self._paths = [paths[i] for i in order]
        self._modalities = np.asarray([modalities[i] for i in order], dtype=object)
        self._scan = ExactScan(vectors[order])

    def search(self, vectors: np.ndarray, k: int, modality: str | None, prefix: str | None) -> list[list[Hit]]:
        """As `VectorStore.search`."""
        mask = None
        if modality is not None:
            mask = np.asarray(self._modalities == modality, bool)
        if prefix is not None:
            below = np.fromiter((path.startswith(prefix) for path in self._paths), bool, len(self._paths))
            mask = below if mask is None else mask & below
        return [
            [Hit(self._ids[row], float(score)) for row, score in zip(rows, scores, strict=True)]
            for rows, scores in self._scan.search(vectors, k, mask)
        ]
