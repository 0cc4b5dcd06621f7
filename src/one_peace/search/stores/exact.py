"""Exact nearest neighbours by an int8 scan with bounds.

Every row x is kept a second time as x' = s*q with q int8. A scan of the small copy gives an approximate score x'.y' and
a bound on its error, so that most rows are ruled out without a look at their float32 values; those left are scored
exactly. The bound: x.y - x'.y' = (x - x').y + x'.(y - y'), so by Cauchy and Schwarz it is at most
|x - x'| |y| + |x'| |y - y'|, and all four lengths are known. A row whose approximate score plus bound is below k
other rows' scores minus theirs cannot be among the k best. So none of those is ever lost, whatever the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from one_peace.search.stores.mapped import MappedArray

_LEVELS = 127
_BLOCK = 2**20  # numbers of the int8 copy that are scanned at a time: as float32 they stay in the processor's cache
_QUERIES = 64  # scanned for at the same time
_INTEGER = 4 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 0
"""Queries up to which the integer product is faster than one of float32. AVX2 has no instruction for it."""
_ALL = slice(None)
_DOUBLE_STEP, _SINGLE_STEP = 2.0**-52, 2.0**-23


class ExactScan:
    """Top-k inner products over rows (n, dim) float32, added by `extend`.

    A row takes 5 * dim + 24 bytes of temporary files in `folder`, mapped into memory; a search goes through a fifth of
    that. Scores are inner products in float64, equal for equal rows; ties are ordered by row.
    """

    def __init__(self, dim: int, folder: Path | None = None) -> None:
        self.dim = dim
        self._vectors = MappedArray(dim, np.float32, folder)
        self._codes = MappedArray(dim, np.int8, folder)
        self._scales, self._errors, self._norms = (MappedArray(1, np.float64, folder) for _ in range(3))

    def __len__(self) -> int:
        return len(self._norms.rows)

    @property
    def vectors(self) -> np.ndarray:
        """(n, dim) float32, a memory map."""
        return self._vectors.rows

    def extend(self, vectors: np.ndarray) -> None:
        """Adds rows (m, dim) float32, which get the next numbers.

        Raises:
            ValueError: not (m, dim) float32, or NaN or infinite values. Nothing is added.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or vectors.dtype != np.float32:
            raise ValueError(f"expected (m, {self.dim}) float32, got {vectors.shape} {vectors.dtype}")
        if not np.isfinite(vectors).all():
            raise ValueError("NaN or infinite values among the vectors")
        step = max(1, _BLOCK // self.dim)
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            codes, scales, errors, norms = _quantise(part)
            self._vectors.append(part)
            self._codes.append(codes)
            self._scales.append(scales[:, None])
            self._errors.append(errors[:, None])
            self._norms.append(norms[:, None])  # last: a row counts from here on

    def search(
        self, queries: np.ndarray, k: int, rows: np.ndarray | slice = _ALL
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query of (m, dim): rows (j,) int64 and scores (j,) float64, best first; j is k, or all there are.

        Only rows among `rows` (ascending, or a slice of step 1) are looked at.

        Raises:
            ValueError: k < 1, queries of another width, or NaN or infinite values in them.
        """
        answers = []
        for found, scores in self.contenders(queries, k, rows):
            order = np.argsort(-scores, kind="stable")[:k]  # contenders are ascending, so ties stay in their order
            answers.append((found[order], scores[order]))
        return answers

    def contenders(
        self, queries: np.ndarray, k: int, rows: np.ndarray | slice = _ALL
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `search`, but all rows that may be among the k best, in ascending order: those and few more.

        All rows whose score equals that of the last of the k are there.
        """
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if queries.shape[1] != self.dim:
            raise ValueError(f"queries have width {queries.shape[1]}, the rows {self.dim}")
        if not np.isfinite(queries).all():
            raise ValueError("NaN or infinite values in a query")
        vectors = self.vectors
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            for query, found in zip(block, self._possible(block, k, rows), strict=True):
                yield found, inner_products(vectors, found, query)

    def _possible(self, queries: np.ndarray, k: int, rows: np.ndarray | slice) -> list[np.ndarray]:
        """Rows of each query that the bounds do not rule out."""
        all_norms, all_errors, all_scales = (each.rows[:, 0] for each in (self._norms, self._errors, self._scales))
        all_codes = self._codes.rows
        codes, own_scales, own_errors, own_norms = _quantise(queries)
        own_lengths = own_norms + own_errors  # at least those of the queries
        product = _Product(codes)
        best = [_Best(k) for _ in queries]
        for part in _parts(rows, len(all_norms), max(1, _BLOCK // self.dim)):
            scores = (
                product(all_codes[part]) * all_scales[part]
            )  # (queries, rows of the block), not times own_scales yet
            # One bound for the block. The rows of a store have unit length, so theirs differ little.
            error, norm = all_errors[part].max(), all_norms[part].max()
            margins = error * own_lengths + norm * own_errors + product.rounding * (error + norm) * own_lengths
            for j, found in enumerate(best):
                found.take(scores[j], own_scales[j], margins[j], part)
        return [found.rows() for found in best]


class _Product:
    """Inner products of int8 codes with those of the queries: exact, or rounded by `rounding` of the lengths' product.

    float32 holds all integers below 2**24, so the sums are exact in any order as long as they cannot reach that.
    """

    def __init__(self, codes: np.ndarray) -> None:
        dim = codes.shape[1]
        self._integer = len(codes) <= _INTEGER and dim > 1  # of width 1 PyTorch's integer product computes nothing
        exact = self._integer or _LEVELS**2 * dim < 2**24
        self.rounding = (dim + 16) * _DOUBLE_STEP + (0.0 if exact else dim * _SINGLE_STEP)
        self._queries = torch.from_numpy(codes).t() if self._integer else torch.from_numpy(codes).float()
        self._single = torch.empty(0)  # room for a block as float32, used again and again

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """(n, dim) int8 -> (queries, n) float64."""
        block = torch.from_numpy(codes)
        if self._integer:
            return np.asarray(torch._int_mm(block, self._queries).t().double().numpy())
        if len(self._single) < len(block):
            self._single = torch.empty(block.shape)
        single = self._single[: len(block)].copy_(block)
        return np.asarray((self._queries @ single.t()).double().numpy())


class _Best:
    """The contenders of one query so far."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._floor = -np.inf  # k rows are known to score at least this
        self._lower = np.empty(0)  # the k best lower bounds
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # rows and upper bounds

    def take(self, scores: np.ndarray, scale: float, margin: float, part: slice | np.ndarray) -> None:
        approximate = scores * scale
        found = np.flatnonzero(approximate >= self._floor - margin)
        if not len(found):
            return
        approximate = approximate[found]
        self._parts.append((found + part.start if isinstance(part, slice) else part[found], approximate + margin))
        lower = np.concatenate([self._lower, approximate - margin])
        if len(lower) >= self._k:
            lower = np.partition(lower, -self._k)[-self._k :]
            self._floor = float(lower.min())
        self._lower = lower

    def rows(self) -> np.ndarray:
        parts = [rows[upper >= self._floor] for rows, upper in self._parts]
        return np.concatenate([np.empty(0, np.int64), *parts])


def _parts(rows: np.ndarray | slice, n: int, step: int) -> Iterator[np.ndarray | slice]:
    if isinstance(rows, slice):
        first, end, _ = rows.indices(n)
        for start in range(first, end, step):
            yield slice(start, min(start + step, end))
    else:
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


def inner_products(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Of `vectors[rows]` and the query: (len(rows),) float64.

    Not a matrix product: BLAS may sum equal rows in different orders, which breaks ties.
    """
    products = np.empty(len(rows))
    step = max(1, _BLOCK // vectors.shape[1])
    for start in range(0, len(rows), step):
        some = vectors[rows[start : start + step]].astype(np.float64)
        products[start : start + step] = (some * query.astype(np.float64)).sum(axis=1)
    return products


def _quantise(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes int8 (n, dim); and (n,): scales, lengths of the errors, lengths of the quantised rows."""
    exact = rows.astype(np.float64)
    scales = np.abs(exact).max(axis=1, initial=0.0) / _LEVELS
    codes = np.rint(exact / np.where(scales > 0, scales, 1.0)[:, None])
    restored = codes * scales[:, None]
    errors = np.sqrt(np.square(exact - restored).sum(axis=1))
    norms = np.sqrt(np.square(restored).sum(axis=1))
    return codes.astype(np.int8), scales, errors, norms
