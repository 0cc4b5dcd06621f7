from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.search import exact
from one_peace.search.exact import ExactScan, inner_products


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inner_products(vectors, query)
    order = [row for row in np.argsort(-scores, kind="stable") if mask[row]][:k]
    return np.asarray(order, np.int64), scores[order]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    dim=st.integers(1, 40),
    k=st.integers(1, 40),
    queries=st.sampled_from([1, 3, 6]),
    kind=st.sampled_from(["normal", "unit", "near", "few values", "zeros", "scales"]),
    masked=st.booleans(),
)
def test_every_search_equals_brute_force(
    seed: int, n: int, dim: int, k: int, queries: int, kind: str, masked: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, dim))
    if kind == "unit":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    elif kind == "near":  # far closer to each other than 8 bits can tell
        vectors = rng.standard_normal(dim) + 1e-5 * vectors
    elif kind == "few values":  # full of ties
        vectors = np.sign(vectors) * (np.abs(vectors) > 1)
    elif kind == "zeros":
        vectors = np.zeros((n, dim))
    elif kind == "scales":
        vectors *= 10.0 ** rng.uniform(-15, 15, (n, 1))
    vectors = vectors.astype(np.float32)
    asked = (rng.standard_normal((queries, dim)) if kind != "zeros" else np.zeros((queries, dim))).astype(np.float32)
    mask = rng.random(n) < 0.5 if masked else np.ones(n, bool)
    answers = ExactScan(vectors).search(asked, k, mask if masked else None)
    for query, (rows, scores) in zip(asked, answers, strict=True):
        expected_rows, expected_scores = brute_force(vectors, query, k, mask)
        assert rows.tolist() == expected_rows.tolist()
        assert scores.tolist() == expected_scores.tolist()


def test_chunks_and_memory_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_CHUNK", 64)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, 24)).astype(np.float32)
    vectors[500:510] = vectors[3]  # ties in another chunk
    np.save(tmp_path / "vectors.npy", vectors)
    scan = ExactScan(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    for query in (vectors[3], rng.standard_normal(24).astype(np.float32)):
        rows, _ = scan.search(query, 15)[0]
        assert rows.tolist() == brute_force(vectors, query, 15, np.ones(1000, bool))[0].tolist()
    assert scan.search(vectors[3], 4)[0][0].tolist() == [3, 500, 501, 502]


def test_few_rows_are_scored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scan = ExactScan(vectors)
    assert len(scan._candidates(vectors[:1] + 0.05 * vectors[1:2], 10, None)[0]) < 1000


@pytest.mark.parametrize(
    ("vectors", "query", "k"),
    [
        (np.ones((3, 4)), np.ones(4), 1),  # float64 rows
        (np.ones(4, np.float32), np.ones(4), 1),
        (np.full((3, 4), np.nan, np.float32), np.ones(4), 1),
        (np.ones((3, 4), np.float32), np.ones(5), 1),
        (np.ones((3, 4), np.float32), np.ones(4), 0),
        (np.ones((3, 4), np.float32), np.full(4, np.inf), 1),
    ],
)
def test_wrong_arguments(vectors: np.ndarray, query: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError):
        ExactScan(vectors).search(query, k)
