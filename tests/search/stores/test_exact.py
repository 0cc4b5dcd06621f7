from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.search.stores import exact, mapped
from one_peace.search.stores.exact import ExactScan, inner_products


def scan_of(vectors: np.ndarray, folder: Path | None = None) -> ExactScan:
    scan = ExactScan(vectors.shape[1], folder)
    scan.extend(vectors)
    return scan


def brute_force(vectors: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = inner_products(vectors, rows, query)
    order = np.argsort(-scores, kind="stable")[:k]
    return rows[order], scores[order]


def vectors_of(kind: str, n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
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
    elif kind == "one big number":  # which leaves the others a single level or none
        vectors *= 0.004
        vectors[:, 0] = 1
    elif kind == "half levels":  # every number as far from its code as can be
        vectors = (rng.integers(-126, 126, (n, dim)) + 0.5) / 127
        vectors[:, 0] = 1
    return vectors.astype(np.float32)


KINDS = ["normal", "unit", "near", "few values", "zeros", "scales", "one big number", "half levels"]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 300),
    dim=st.integers(1, 40),
    k=st.integers(1, 40),
    queries=st.sampled_from([1, 3, 70]),
    kind=st.sampled_from(KINDS),
    asked_as=st.sampled_from(["random", "a row", "away from a row"]),
    masked=st.booleans(),
    block=st.sampled_from([64, 1000, 2**20]),
    integer=st.sampled_from([0, 4]),
)
def test_every_search_equals_brute_force(
    seed: int, n: int, dim: int, k: int, queries: int, kind: str, asked_as: str, masked: bool, block: int, integer: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = vectors_of(kind, n, dim, rng)
    asked = rng.standard_normal((queries, dim)).astype(np.float32)
    if n and asked_as != "random":
        asked = vectors[rng.integers(0, n, queries)] * np.float32(1 if asked_as == "a row" else -3)
    rows = np.flatnonzero(rng.random(n) < 0.5) if masked else np.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_BLOCK", block)
        patch.setattr(exact, "_INTEGER", integer)
        scan = ExactScan(dim)
        for part in np.array_split(vectors, 3):
            scan.extend(part)
        answers = scan.search(asked, k, rows) if masked else scan.search(asked, k)
    for query, (found, scores) in zip(asked, answers, strict=True):
        expected_rows, expected_scores = brute_force(vectors, query, k, rows)
        assert found.tolist() == expected_rows.tolist()
        assert scores.tolist() == expected_scores.tolist()


def test_the_bound_holds_and_is_nearly_reached() -> None:
    """The proof in numbers: no score is further from its approximation than allowed, and some are almost as far."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for kind in KINDS:
        vectors = vectors_of(kind, 200, 3, rng).astype(np.float64)
        queries = vectors_of(kind, 50, 3, rng).astype(np.float64)
        codes, scales, errors, norms = exact._quantise(vectors)
        own, own_scales, own_errors, own_norms = exact._quantise(queries)
        approximate = (codes * scales[:, None]) @ (own * own_scales[:, None]).T
        bound = np.outer(errors, own_norms + own_errors) + np.outer(norms, own_errors)
        error = np.abs(vectors @ queries.T - approximate)
        room = bound * (1 + 1e-9) + 1e-12 * np.outer(norms + errors, own_norms + own_errors)
        assert (error <= room).all()
        worst = max(worst, float((error / np.maximum(bound, 1e-300)).max()))
    assert worst > 0.5


@pytest.mark.parametrize("integer", [0, 4])
def test_vectors_of_one_number(integer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_INTEGER", integer)
    scan = scan_of(np.array([[1.0], [-2.0], [3.0]], dtype=np.float32))
    for query, order in ((1.0, [2, 0, 1]), (-1.0, [1, 0, 2])):
        [(rows, scores)] = scan.search(np.array([[query]], dtype=np.float32), 3)
        assert rows.tolist() == order and scores.tolist() == sorted([query, -2 * query, 3 * query], reverse=True)


def test_wide_vectors_whose_sums_float32_rounds() -> None:
    rng = np.random.default_rng(2)
    vectors = (1 + 1e-4 * rng.standard_normal((300, 4096))).astype(np.float32)
    for query in (vectors[7], rng.standard_normal(4096).astype(np.float32)):
        rows, scores = scan_of(vectors).search(np.stack([query] * 5), 10)[4]
        expected_rows, expected_scores = brute_force(vectors, query, 10, np.arange(300))
        assert rows.tolist() == expected_rows.tolist() and scores.tolist() == expected_scores.tolist()


def test_files_are_in_the_folder_and_gone_with_the_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, 24)).astype(np.float32)
    vectors[4500:4510] = vectors[3]  # ties far apart
    scan = scan_of(vectors, tmp_path)
    before = scan.vectors
    scan.extend(vectors)
    assert before.tobytes() == vectors.tobytes() and len(scan) == 10_000  # growing moves nothing for who reads
    assert list(tmp_path.iterdir()) == []
    assert scan.search(vectors[3], 4)[0][0].tolist() == [3, 4500, 4501, 4502]
    assert scan.search(vectors[3], 3, slice(4505, 9000))[0][0].tolist() == [4505, 4506, 4507]
    contenders = next(scan.contenders(vectors[3], 2))[0]
    assert set(contenders.tolist()) >= {3, *range(4500, 4510), 5003, *range(9500, 9510)}  # all that tie for the place


def test_a_full_disk_is_survived_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    room = [200_000]
    write = os.pwrite

    def pwrite(file: int, data: memoryview, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]], offset)
        room[0] -= done
        return done

    monkeypatch.setattr(mapped.os, "pwrite", pwrite)
    vectors = np.random.default_rng(0).standard_normal((3000, 24)).astype(np.float32)
    scan = ExactScan(24)
    for part in np.array_split(vectors, 7):
        scan.extend(part)
    assert room[0] == 0 and scan.vectors.tobytes() == vectors.tobytes()
    assert scan.search(vectors[9], 5)[0][0].tolist() == brute_force(vectors, vectors[9], 5, np.arange(3000))[0].tolist()


def test_few_rows_are_scored_again() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scan = scan_of(vectors)
    assert len(next(scan.contenders(vectors[:1] + 0.05 * vectors[1:2], 10))[0]) < 200


@pytest.mark.parametrize(
    ("vectors", "query", "k"),
    [
        (np.ones((3, 4)), np.ones(4), 1),  # float64 rows
        (np.ones((3, 5), np.float32), np.ones(4), 1),
        (np.full((3, 4), np.nan, np.float32), np.ones(4), 1),
        (np.full((3, 4), -np.inf, np.float32), np.ones(4), 1),
        (np.ones((3, 4), np.float32), np.ones(5), 1),
        (np.ones((3, 4), np.float32), np.ones(4), 0),
        (np.ones((3, 4), np.float32), np.full(4, np.inf), 1),
    ],
)
def test_wrong_arguments(vectors: np.ndarray, query: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError):
        scan = ExactScan(4)
        scan.extend(vectors)
        scan.search(query, k)
