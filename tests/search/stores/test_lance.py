"""What is LanceDB's own: the index in the background, the switch to it, and what came after it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from one_peace.search.filters import Condition
from one_peace.search.records import Hit, Record
from one_peace.search.stores import lance
from one_peace.search.stores.base import StoreError, VectorStore
from one_peace.search.stores.lance import LanceStore
from one_peace.search.stores.sqlite import SqliteStore
from search.stores.test_store_conformance import DIM, SPACE, record

pytest.importorskip("lancedb")
AUDIO = (Condition("modality", "in", ("audio",)),)
RARE = (Condition("tags", "has", ("rare",)),)


def clustered(count: int) -> list[Record]:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20, DIM))
    records = []
    for n in range(count):
        vector = centers[n % 20] + 0.4 * rng.standard_normal(DIM)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        more = {"tags": ("rare",)} if n % 300 == 7 else {}
        records.append(replace(record(n, ("image", "audio")[n % 2], **more), vector=vector))
    return records


def recall(found: list[list[Hit]], exact: list[list[Hit]]) -> float:
    return float(
        np.mean([len({h.id for h in f} & {h.id for h in e}) / len(e) for f, e in zip(found, exact, strict=True)])
    )


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "EXACT_NUMBERS", 500 * DIM)


def test_the_index(tmp_path: Path, small_limit: None) -> None:
    records = clustered(1200)
    store, oracle = LanceStore(str(tmp_path / "store"), SPACE), SqliteStore(tmp_path / "oracle", SPACE)
    stores: tuple[VectorStore, ...] = (store, oracle)
    for each in stores:
        each.add(records)
    queries = np.stack([r.vector for r in records[:40]])
    assert store.search(queries, 10) == oracle.search(queries, 10)  # no index yet, so exact
    store.finish()
    store.settle()
    assert {index.columns[0] for index in store._table.list_indices()} == {"id", "modality", "branch", "vector"}
    late = record(5000, "audio")
    for each in stores:
        each.add([late])
        each.delete(["id-0003"])
    assert store._state().indexed
    assert store.search(late.vector, 1)[0][0].id == "id-5000"  # not in the index
    for where in ((), AUDIO, RARE, (*AUDIO, Condition("caption", "contains", 'number" 5000'))):
        found, exact = store.search(queries, 10, where), oracle.search(queries, 10, where)
        assert [len(hits) for hits in found] == [len(hits) for hits in exact]  # however few rows pass
        assert recall(found, exact) >= 0.95
        for hits, right in zip(found, exact, strict=True):
            assert "id-0003" not in {hit.id for hit in hits}
            scores = {hit.id: hit.score for hit in right}
            assert all(scores.get(hit.id, hit.score) == hit.score for hit in hits)  # scored exactly
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
    store.finish()
    store.settle()
    assert store._table.index_stats("vector_idx").num_unindexed_rows == 0  # taken in by now


def test_searches_stay_right_while_the_index_is_made(
    tmp_path: Path, small_limit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, oracle = LanceStore(str(tmp_path / "store"), SPACE), SqliteStore(tmp_path / "oracle", SPACE)
    records = clustered(900)
    going, go_on = threading.Event(), threading.Event()
    maintain = store._maintain

    def slow() -> None:
        going.set()
        assert go_on.wait(30)
        maintain()

    monkeypatch.setattr(store._upkeep, "_work", slow)
    store.add(records[:600])
    store.finish()  # comes back at once
    assert going.wait(30)
    store.add(records[600:])
    store.finish()  # what came meanwhile needs another round
    oracle.add(records)
    queries = np.stack([r.vector for r in records[-9:]])
    assert store.search(queries, 10) == oracle.search(queries, 10)
    go_on.set()
    store.close()
    assert store._table.index_stats("vector_idx").num_indexed_rows == 900


def test_below_the_limit_there_is_no_index(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path), SPACE)
    store.add(clustered(300))
    store.finish()
    store.settle()
    assert store._table.list_indices() == []


def test_damaged_files_are_a_store_error(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path), SPACE)
    store.add([record(1)])
    for file in tmp_path.glob("items.lance/data/*"):
        file.write_bytes(file.read_bytes()[:10])
    store = LanceStore(str(tmp_path), SPACE)
    uses = (store.entries, lambda: store.rows(["id-0001"]), lambda: list(store.vectors()))
    for use in (*uses, lambda: store.search(record(1).vector, 1), lambda: store._by_index(record(1).vector, 1, None)):
        with pytest.raises(StoreError, match=str(tmp_path)):
            use()


def test_a_failure_in_the_background_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LanceStore(str(tmp_path), SPACE)
    store.add([record(1)])

    def broken() -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(store._upkeep, "_work", broken)
    store.finish()
    with pytest.raises(StoreError, match="indexes failed: no space left"):
        store.settle()
    store.settle()
    assert store.search(record(1).vector, 1)[0][0].id == "id-0001"
