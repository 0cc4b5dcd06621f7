"""Ranking across the modality gap: how far a score stands out among all rows of its branch.

Embeddings of pictures, sounds and texts fill separate cones of the shared space, so that a text query scores nearly
every text above nearly every picture, whatever they show. Comparable is the standing: for a query q and rows x of
one branch with mean m and covariance C, scores q.x have mean q.m and variance q'Cq, and

    standing = (q.x - q.m) / sqrt(q'Cq).

It keeps the order within a branch, needs no labels and no second look at the rows. docs/search.md has what it
changes, measured.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from one_peace.atomic_files import replacing
from one_peace.search.records import Entry
from one_peace.search.stores.base import VectorStore

_PRIOR_ROWS = 32  # of a branch with so many rows, its own statistics count as much as those of all branches together
_MOST_ROWS = 100_000  # of a branch that are looked at
_DRIFT = 0.1  # share of all rows, or of a branch's, that may come or go before a kept calibration is measured again
_SMALLEST = 1e-9  # standard deviation: a query that scores all rows alike tells none of them from the others

log = logging.getLogger("one_peace.search")


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the rows of one branch: how many were looked at, their sum (dim,), and the sum of x x' (dim, dim), float64."""

    count: int
    total: np.ndarray
    gram: np.ndarray

    def plus(self, other: Moments) -> Moments:
        """Of the rows of both."""
        return Moments(self.count + other.count, self.total + other.total, self.gram + other.gram)

    @classmethod
    def of(cls, vectors: np.ndarray) -> Moments:
        """Of rows (n, dim)."""
        rows = vectors.astype(np.float64)
        return cls(len(rows), rows.sum(axis=0), rows.T @ rows)


class Calibration:
    """Statistics of the branches of a library of `rows` rows.

    The mean and covariance of a branch with few rows are uncertain and are drawn towards those of all rows, so that a
    library of a few files is ranked by plain cosine similarity.
    """

    def __init__(self, branches: dict[str, Moments], rows: int) -> None:
        self.branches = branches
        self.rows = rows

    @classmethod
    def measure(cls, chunks: Iterable[tuple[list[Entry], np.ndarray]]) -> Calibration:
        """From all rows, (entries, vectors (n, dim)) at a time."""
        branches: dict[str, Moments] = {}
        rows = 0
        for entries, vectors in chunks:
            rows += len(entries)
            names = np.array([entry.branch for entry in entries], dtype=object)
            for name in dict.fromkeys(names.tolist()):
                seen = branches.get(name)
                if seen is None or seen.count < _MOST_ROWS:
                    found = Moments.of(vectors[names == name])
                    branches[name] = found if seen is None else seen.plus(found)
        return cls(branches, rows)

    def usual(self, query: np.ndarray, branch: str) -> tuple[float, float]:
        """Mean and standard deviation of the scores of a query (dim,) with all rows of a branch."""
        q = query.astype(np.float64)
        count, mean, square = self._moments(q, list(self.branches))
        n, own_mean, own_square = self._moments(q, [branch] if branch in self.branches else [])
        variance = max(square - mean**2, 0.0)
        own_variance = max(own_square - own_mean**2, 0.0)
        share = n / (n + _PRIOR_ROWS)
        mean += share * (own_mean - mean)
        variance += share * (own_variance - variance)
        return mean, max(float(np.sqrt(variance)), _SMALLEST)

    def save(self, path: Path) -> None:
        """Writes the file in one step."""
        arrays: dict[str, np.ndarray] = {"rows": np.array(self.rows)}
        for name, moments in self.branches.items():
            arrays |= {
                f"count/{name}": np.array(moments.count),
                f"total/{name}": moments.total,
                f"gram/{name}": moments.gram,
            }
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its allow_pickle has the same form

    @classmethod
    def load(cls, path: Path) -> Calibration | None:
        """None if there is no file, or none that can be used: it is made anew then."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = [key.removeprefix("count/") for key in arrays if key.startswith("count/")]
                branches = {
                    name: Moments(int(arrays[f"count/{name}"]), arrays[f"total/{name}"], arrays[f"gram/{name}"])
                    for name in names
                }
                return cls(branches, int(arrays["rows"]))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
            return None  # after a power cut it may be empty or hold anything, as an unknown kind of compression

    def _moments(self, q: np.ndarray, names: list[str]) -> tuple[int, float, float]:
        """Number of rows, mean and mean square of their scores with q."""
        count = sum(self.branches[name].count for name in names)
        if not count:
            return 0, 0.0, 0.0
        total = sum(float(q @ self.branches[name].total) for name in names)
        square = sum(float(q @ self.branches[name].gram @ q) for name in names)
        return count, total / count, square / count


class KeptCalibration:
    """The calibration of a library, in the file `path`: measured by whoever writes to the library, read by all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: tuple[int, Calibration] | None = None  # with the time of the file it was read from
        self._written: Counter[str] = Counter()  # rows by branch, since it was measured
        self._reading = threading.Lock()

    def latest(self, store: VectorStore) -> Calibration:
        """As last measured by a writer; measured here, of the rows of `store`, where no file can be read."""
        try:
            time = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            time = 0
        with self._reading:
            if self._known is None or self._known[0] != time:
                read = Calibration.load(self.path) if time else None
                self._known = (time, read or Calibration.measure(store.vectors()))
            return self._known[1]

    def renew(self, store: VectorStore, written: Mapping[str, int]) -> None:
        """After writing to `store`, so many rows of each branch: measures again if much has changed.

        If this file cannot be written (the disk is full), the library's rows stay as written, and the next writer
        measures again.
        """
        rows, known = store.count(), Calibration.load(self.path)
        self._written.update(written)
        if known is None or abs(rows - known.rows) > _DRIFT * known.rows or self._is_outdated(known):
            measured = Calibration.measure(store.vectors())
            try:
                measured.save(self.path)
                self._written.clear()
            except OSError as error:
                log.warning("%s could not be written: %s", self.path, error)

    def _is_outdated(self, known: Calibration) -> bool:
        """Whether of some branch more was written than its statistics, and what they are drawn towards, can stand."""
        counts = {name: moments.count for name, moments in known.branches.items()}
        return any(new > _DRIFT * (counts.get(name, 0) + _PRIOR_ROWS) for name, new in self._written.items())
