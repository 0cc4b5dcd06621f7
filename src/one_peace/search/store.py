"""The interface that a storage engine implements; `tests/search/test_stores.py` holds every engine to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from one_peace.search.records import Entry, Hit, Record


class VectorStore(Protocol):
    """Rows of (entry, vector, thumbnail) on disk or on a server, searched by cosine similarity.

    Writes are atomic: whoever reads sees all rows of a call or none, also after a crash.
    """

    def add(self, records: Sequence[Record]) -> None:
        """Adds rows; a row whose id is there already is replaced.

        Raises:
            ValueError: a vector of the wrong length, or with NaN or infinite values.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Removes rows; ids that are not there are ignored."""
        ...

    def count(self) -> int:
        """Number of rows."""
        ...

    def entries(self) -> list[Entry]:
        """All rows without vectors and thumbnails, in any order."""
        ...

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        """Whole rows by id; ids that are not there are left out."""
        ...

    def search(
        self, vectors: np.ndarray, k: int, *, modality: str | None = None, prefix: str | None = None
    ) -> list[list[Hit]]:
        """The k best rows for each query of (m, dim), best first.

        Only rows of `modality` and with a path that starts with `prefix` count.

        Raises:
            ValueError: k < 1, or queries of the wrong length.
        """
        ...

    def finish(self) -> None:
        """Called after many writes: the time to compact files and to build indexes."""
        ...

    def close(self) -> None:
        """Frees what the store holds in memory; it can be opened again from disk."""
        ...


def check_vectors(records: Sequence[Record], dim: int) -> None:
    """Raises `ValueError` for a record whose vector is not (dim,) finite numbers."""
    for record in records:
        if record.vector.shape != (dim,) or not np.isfinite(record.vector).all():
            raise ValueError(
                f"{record.entry.path}: expected a vector of {dim} finite numbers, got shape {record.vector.shape}"
            )
