"""What every store has to do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from one_peace.errors import MissingExtraError
from one_peace.search import lance, sqlite
from one_peace.search.engines import ENGINES
from one_peace.search.lance import LanceStore
from one_peace.search.records import Entry, Record
from one_peace.search.sqlite import SqliteStore
from one_peace.search.store import VectorStore

DIM = 12
Open = Callable[[], VectorStore]


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "lance":
        pytest.importorskip("lancedb")
    return str(request.param)


@pytest.fixture
def open_store(engine: str, tmp_path: Path) -> Open:
    return lambda: ENGINES[engine](tmp_path / "store", DIM)


def record(number: int, modality: str = "image", path: str | None = None, seed: int | None = None) -> Record:
    vector = np.random.default_rng(number if seed is None else seed).standard_normal(DIM)
    entry = Entry(
        id=f"id-{number:04}",
        path=path or f"/media/{modality}/{number}.x",
        modality=modality,
        digest=f"{number:064x}",
        size=number,
        mtime=10**18 + number,
        caption=f"it's number {number} \u732b",
        duration=0.5 if modality == "audio" else None,
    )
    return Record(entry, (vector / np.linalg.norm(vector)).astype(np.float32), b"jpeg" if number % 2 else None)


def test_empty(open_store: Open) -> None:
    store = open_store()
    assert store.count() == 0 and store.entries() == [] and store.rows(["id"]) == {}
    store.add([])
    store.delete([])
    store.delete(["id"])
    assert store.search(np.ones((2, DIM), np.float32), 5) == [[], []]
    store.finish()
    store.close()


def test_rows_come_back_as_they_went_in(open_store: Open) -> None:
    store = open_store()
    records = [record(0), record(1, "audio"), record(2, "text")]
    store.add(records)
    assert store.count() == 3
    assert sorted(store.entries(), key=lambda entry: entry.id) == [r.entry for r in records]
    rows = store.rows(["id-0001", "id-0002", "nothing"])
    assert set(rows) == {"id-0001", "id-0002"}
    assert rows["id-0001"].entry == records[1].entry
    assert rows["id-0001"].thumbnail == b"jpeg" and rows["id-0002"].thumbnail is None
    assert rows["id-0001"].vector.tolist() == records[1].vector.tolist()


def test_adding_again_replaces(open_store: Open) -> None:
    store = open_store()
    store.add([record(n) for n in range(5)])
    changed = record(2, "text", path="/elsewhere", seed=99)
    store.add([changed, record(7)])
    assert store.count() == 6
    row = store.rows(["id-0002"])["id-0002"]
    assert row.entry == changed.entry and row.vector.tolist() == changed.vector.tolist()
    assert store.search(changed.vector, 1)[0][0].id == "id-0002"
    twice = replace(changed, thumbnail=b"last")
    store.add([changed, twice])
    assert store.count() == 6 and store.rows(["id-0002"])["id-0002"].thumbnail == b"last"


def test_delete(open_store: Open) -> None:
    store = open_store()
    store.add([record(n) for n in range(2500)])
    store.delete([f"id-{n:04}" for n in range(0, 2500, 2)])
    assert store.count() == 1250
    assert store.rows(["id-0002"]) == {} and "id-0003" in store.rows(["id-0003"])
    assert all(int(hit.id[3:]) % 2 for hit in store.search(record(2).vector, 100)[0])


def test_search_is_exact_and_ordered(open_store: Open) -> None:
    store = open_store()
    records = [record(n, ("image", "audio", "text")[n % 3]) for n in range(400)]
    records += [record(n, seed=0) for n in (900, 800)]  # ties with row 0
    store.add(records)
    matrix = np.stack([r.vector for r in records]).astype(np.float64)
    for query in (records[0].vector, record(5000).vector):
        scores = matrix @ query.astype(np.float64)
        expected = sorted(zip(-scores.round(9), [r.entry.id for r in records], strict=True))[:20]
        hits = store.search(query, 20)[0]
        assert [hit.id for hit in hits] == [id_ for _, id_ in expected]
        np.testing.assert_allclose([-hit.score for hit in hits], [score for score, _ in expected], atol=1e-6)
    many = store.search(matrix[:9].astype(np.float32), 3)
    assert many == [store.search(row.astype(np.float32), 3)[0] for row in matrix[:9]]
    assert len(store.search(records[0].vector, 10_000)[0]) == 402


def test_filters(open_store: Open) -> None:
    store = open_store()
    odd = "/media/it's % _ \u732b/"
    store.add([record(n, "image" if n % 2 else "audio") for n in range(40)])
    store.add([record(n, "text", path=f"{odd}{n}") for n in range(40, 50)])
    query = record(1).vector
    images = store.search(query, 100, modality="image")[0]
    assert {int(hit.id[3:]) for hit in images} == set(range(1, 40, 2))
    inside = store.search(query, 100, prefix=odd)[0]
    assert {int(hit.id[3:]) for hit in inside} == set(range(40, 50))
    assert len(store.search(query, 3, modality="audio", prefix="/media/audio/1")[0]) == 3
    assert store.search(query, 3, modality="image", prefix=odd)[0] == []
    assert store.search(query, 3, modality="no'such")[0] == []


def test_wrong_arguments(open_store: Open) -> None:
    store = open_store()
    store.add([record(1)])
    with pytest.raises(ValueError, match="vector"):
        store.add([record(2), replace(record(3), vector=np.ones(DIM + 1, np.float32))])
    with pytest.raises(ValueError, match="finite"):
        store.add([replace(record(3), vector=np.full(DIM, np.nan, np.float32))])
    assert store.count() == 1  # nothing of a refused call is there
    with pytest.raises(ValueError):
        store.search(np.ones(DIM + 1, np.float32), 1)
    with pytest.raises(ValueError):
        store.search(np.ones(DIM, np.float32), 0)


def test_usable_after_finish_and_close(open_store: Open) -> None:
    store = open_store()
    for n in range(20):
        store.add([record(n)])
    store.finish()
    store.close()
    assert store.count() == 20 and store.search(record(3).vector, 1)[0][0].id == "id-0003"


def test_rows_are_there_after_reopening_and_seen_by_others(engine: str, open_store: Open, tmp_path: Path) -> None:
    writer, reader = open_store(), open_store()
    writer.add([record(1)])
    assert reader.count() == 1 and reader.search(record(1).vector, 1)[0][0].id == "id-0001"
    writer.add([record(2)])
    assert reader.search(record(2).vector, 1)[0][0].id == "id-0002"
    writer.delete(["id-0001"])
    assert [hit.id for hit in reader.search(record(1).vector, 5)[0]] == ["id-0002"]
    assert open_store().count() == 1
    with pytest.raises(ValueError, match="length 12, not 13"):
        ENGINES[engine](tmp_path / "store", 13)


def test_sqlite_refuses_to_grow_big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "EXACT_LIMIT", 3)
    store = SqliteStore(tmp_path, DIM)
    store.add([record(n) for n in range(3)])
    with pytest.raises(MissingExtraError, match=r"more than 3 files.*one-peace\[search\]"):
        store.add([record(4)])
    assert store.count() == 3


def test_lance_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr(lance, "EXACT_LIMIT", 500)
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20, DIM))
    records = []
    for n in range(1200):
        vector = centers[n % 20] + 0.4 * rng.standard_normal(DIM)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        records.append(replace(record(n, ("image", "audio")[n % 2]), vector=vector))
    store = LanceStore(tmp_path / "store", DIM)
    store.add(records)
    store.finish()
    assert store._table.list_indices()
    oracle = SqliteStore(tmp_path / "oracle", DIM)
    late = record(5000, "audio")  # not in the index yet
    for each in (store, oracle):
        each.add([late])
    assert store.search(late.vector, 1)[0][0].id == "id-5000"
    queries = np.stack([r.vector for r in records[:40]])
    oracle.add(records)
    for modality in (None, "audio"):
        found = store.search(queries, 10, modality=modality)
        exact = oracle.search(queries, 10, modality=modality)
        recall = np.mean([len({h.id for h in f} & {h.id for h in e}) / 10 for f, e in zip(found, exact, strict=True)])
        assert recall >= 0.95
        for f in found:
            assert [h.score for h in f] == sorted((h.score for h in f), reverse=True)


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from search.test_stores import DIM, record
from one_peace.search.engines import open_store
store = open_store(sys.argv[1], Path(sys.argv[2]), DIM)
for n in range(0, 100_000, 10):
    store.add([record(m) for m in range(n, n + 10)])
    print(n + 10, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(engine: str, open_store: Open, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, engine, str(tmp_path / "store"), str(Path(__file__).parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        while seen < 70:
            seen = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        seen = max([seen, *map(int, process.stdout.read().split())])
    store = open_store()
    assert seen <= store.count() <= seen + 10 and store.count() % 10 == 0
    assert {entry.id for entry in store.entries()} >= {f"id-{n:04}" for n in range(seen)}
    store.add([record(100_000)])
    assert store.search(record(100_000).vector, 1)[0][0].id == "id-100000"
