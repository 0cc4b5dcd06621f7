"""Exact nearest neighbours by an int8 scan with bounds.

Every row x is kept a second time as s*q with q int8. A scan of the small copy gives an approximate score and
a bound on its error, so that most rows are ruled out without a look at their float32 values; those left are
scored exactly. No row of the true top k can be lost, whatever the data.
"""

from __future__ import annotations

import numpy as np
import torch

_CHUNK = 16384  # rows scanned at a time
_LEVELS = 127
_FLOAT32_STEP = 2.0**-23  # rounding of a sum of n products is below n times this, relative to the lengths
_FEW = 4  # queries up to which the integer product is the faster one on CPUs without VNNI instructions


class ExactScan:
    """Top-k inner products over `vectors` (n, dim) float32, an array or a memory map, read and not copied.

    The int8 copy takes n * dim bytes of memory. Scores are inner products in float64, equal for equal rows;
    ties are ordered by row.

    Raises:
        ValueError: not (n, dim) float32, or NaN or infinite values.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(f"expected (n, dim) float32, got {vectors.shape} {vectors.dtype}")
        self.vectors = vectors
        n, dim = vectors.shape
        self._codes = np.empty((n, dim), np.int8)
        self._scales = np.empty(n)
        self._errors = np.empty(n)  # length of what quantisation changed
        self._norms = np.empty(n)  # length of the quantised row
        for start in range(0, n, _CHUNK):
            part = slice(start, start + _CHUNK)
            self._codes[part], self._scales[part], self._errors[part], self._norms[part] = _quantise(vectors[part])

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self, queries: np.ndarray, k: int, mask: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query of (m, dim): rows (j,) int64 and scores (j,) float64, best first.

        `mask` (n,) bool says which rows are allowed; j is k or the number of those.

        Raises:
            ValueError: k < 1, queries of another width, or NaN or infinite values in them.
        """
        queries = np.atleast_2d(np.asarray(queries, np.float32))
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries have width {queries.shape[1]}, the rows {self.vectors.shape[1]}")
        candidates = self._candidates(queries, k, mask)
        return [self._best(query, rows, k) for query, rows in zip(queries, candidates, strict=True)]

    def _candidates(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> list[np.ndarray]:
        """Rows of each query that may be among its k best."""
        codes, scales, errors, norms = _quantise(queries)
        lengths = norms + errors  # at least the length of the query
        transposed = torch.from_numpy(codes).t()
        slack = 1e-12 if len(queries) <= _FEW else 1e-12 + _FLOAT32_STEP * queries.shape[1]
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in queries]
        floors = [np.full(0, -np.inf) for _ in queries]  # the k best lower bounds so far
        for start in range(0, len(self), _CHUNK):
            part = slice(start, start + _CHUNK)
            allowed = None if mask is None else np.flatnonzero(mask[part])
            if allowed is not None and not len(allowed):
                continue
            products = _products(torch.from_numpy(self._codes[part]), transposed)
            for j in range(len(queries)):
                approximate = products[:, j] * (self._scales[part] * scales[j])
                # |x.y - x'.y'| = |(x-x').y + x'.(y-y')|; the factor and the slack cover rounding.
                margin = (self._errors[part] * lengths[j] + self._norms[part] * errors[j]) * (1 + 1e-9)
                margin += slack * (self._norms[part] + self._errors[part]) * lengths[j]
                rows = np.arange(len(approximate)) if allowed is None else allowed
                lower, upper = (approximate - margin)[rows], (approximate + margin)[rows]
                best = np.concatenate([floors[j], lower])
                floors[j] = best if len(best) <= k else np.partition(best, -k)[-k:]
                possible = upper >= _floor(floors[j], k)
                found[j].append((rows[possible] + start, upper[possible]))
        kept = []
        for floor, parts in zip(floors, found, strict=True):
            rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in parts)])
            upper = np.concatenate([np.empty(0), *(upper for _, upper in parts)])
            kept.append(rows[upper >= _floor(floor, k)])
        return kept

    def _best(self, query: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            scores[part] = inner_products(self.vectors[rows[part]], query)
        order = np.argsort(-scores, kind="stable")[:k]  # rows are ascending, so ties stay in their order
        return rows[order], scores[order]


def _products(codes: torch.Tensor, queries: torch.Tensor) -> np.ndarray:
    """(n, dim) and (dim, m), both int8 -> (n, m): exact for few queries, rounded as float32 for many."""
    if queries.shape[1] <= _FEW:
        return np.asarray(torch._int_mm(codes, queries).numpy())
    return np.asarray((codes.float() @ queries.float()).numpy())


def inner_products(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(n,) float64. Not a matrix product: BLAS may sum equal rows in different orders, which breaks ties."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return np.asarray(products.sum(axis=1))


def _floor(best: np.ndarray, k: int) -> float:
    return float(best.min()) if len(best) >= k else -np.inf


def _quantise(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """codes int8 (n, dim), scales (n,), and the lengths (n,) of the error and of the quantised row."""
    exact = rows.astype(np.float64)
    scales = np.abs(exact).max(axis=1, initial=0.0) / _LEVELS
    if not np.isfinite(scales).all():
        raise ValueError("NaN or infinite values among the vectors")
    codes = np.rint(exact / np.where(scales > 0, scales, 1.0)[:, None])
    restored = codes * scales[:, None]
    errors = np.sqrt(np.square(exact - restored).sum(axis=1))
    norms = np.sqrt(np.square(restored).sum(axis=1))
    return codes.astype(np.int8), scales, errors, norms
