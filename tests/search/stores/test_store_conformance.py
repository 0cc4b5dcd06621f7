"""What every store has to do."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import store_servers as servers
from one_peace.search.filters import Condition, passes
from one_peace.search.records import COLUMNS, Entry, Hit, Record, Space
from one_peace.search.stores.base import OtherModelError, StoreError, StoreFullError, VectorStore, failure
from one_peace.search.stores.engines import find_space, move_store, open_store
from one_peace.search.stores.lance import LanceStore
from one_peace.search.stores.sqlite import SqliteStore

DIM = 12
SPACE = Space("a-model", "f00d", DIM)
ENGINES = (
    "sqlite",
    "lance",
    pytest.param("lance on s3", marks=pytest.mark.xdist_group("object store")),  # one server for all of them
    pytest.param("milvus", marks=pytest.mark.xdist_group("milvus")),
)
Open = Callable[[], VectorStore]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.milvus(tmp_path_factory.mktemp("milvus")) as address:
        yield address


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that is not there yet."""
    if engine == "sqlite":
        SqliteStore(tmp_path / "store \u732b", SPACE)  # a folder keeps the engine that it has
        return str(tmp_path / "store \u732b")
    if engine == "lance":
        pytest.importorskip("lancedb")
        return str(tmp_path / "store \u732b")
    if engine == "lance on s3":
        return f"{request.getfixturevalue('bucket')}/store_{next(_numbers)}"
    return f"{request.getfixturevalue('milvus')}/store_{next(_numbers)}"


@pytest.fixture
def opened(address: str) -> Open:
    return lambda: open_store(address, SPACE)


def record(
    number: int, modality: str = "image", path: str | None = None, seed: int | None = None, **more: Any
) -> Record:
    vector = np.random.default_rng(number if seed is None else seed).standard_normal(DIM)
    entry = Entry(
        id=f"id-{number:04}",
        path=path or f"/media/{modality}/{number}.x",
        modality=modality,
        digest=f"{number:064x}",
        size=number,
        mtime=10**18 + number,
        caption=f'it\'s "number" {number} \u732b \\ \n',
        duration=0.5 * number if modality == "audio" else None,
        tags=("odd", "it's \u732b") if number % 2 else (),
        item=f"item-{number // 2}",
        branch=modality,
        part=number % 2,
        parts=2,
    )
    return Record(
        replace(entry, **more),
        (vector / np.linalg.norm(vector)).astype(np.float32),
        b"\xff\xd8" if number % 2 else None,
    )


def found(hits: list[Hit]) -> list[int]:
    return [int(hit.id[3:]) for hit in hits]


def soon(ask: Callable[[], Any], expected: Any) -> None:
    """What another process wrote a moment ago is seen: at once by the embedded stores, soon by Milvus."""
    give_up = time.monotonic() + 60
    while (answer := ask()) != expected and time.monotonic() < give_up:
        time.sleep(0.05)
    assert answer == expected


def test_empty(opened: Open) -> None:
    store = opened()
    assert store.space == SPACE
    assert store.count() == 0 and store.entries() == [] and store.rows(["id"]) == {} and list(store.vectors()) == []
    store.add([])
    store.delete([])
    store.delete(["id"])
    assert store.search(np.ones((2, DIM), np.float32), 5) == [[], []]
    assert store.search(np.ones(DIM), 5, [Condition("caption", "contains", "x")]) == [[]]
    store.finish()
    store.settle()
    store.close()


def test_rows_come_back_as_they_went_in(opened: Open) -> None:
    store = opened()
    odd = record(
        3, path='/it\'s % _ "q" \\ \u732b \U0001f408/\n', label="\x01\t", start=0.1, size=2**62, tags=("", "a,b")
    )
    records = [record(0), record(1, "audio"), record(2, "text", caption=""), odd]
    store.add(records)
    assert store.count() == 4
    assert sorted(store.entries(), key=lambda entry: entry.id) == [r.entry for r in records]
    rows = store.rows(["id-0001", "id-0003", "nothing", "' OR 1 = 1"])
    assert set(rows) == {"id-0001", "id-0003"}
    assert rows["id-0003"].entry == odd.entry
    assert store.rows(["id-0000"])["id-0000"].thumbnail is None and rows["id-0001"].thumbnail == b"\xff\xd8"
    assert rows["id-0001"].vector.tobytes() == records[1].vector.tobytes()


def test_adding_again_replaces(opened: Open) -> None:
    store = opened()
    store.add([record(n) for n in range(5)])
    changed = record(2, "text", path="/elsewhere", seed=99)
    store.add([changed, record(7)])
    assert store.count() == 6
    row = store.rows(["id-0002"])["id-0002"]
    assert row.entry == changed.entry and row.vector.tolist() == changed.vector.tolist()
    assert found(store.search(changed.vector, 1)[0]) == [2]
    assert store.search(changed.vector, 9, [Condition("path", "prefix", "/else")])[0][0].score == pytest.approx(1)
    store.add([changed, replace(changed, thumbnail=b"last")])
    assert store.count() == 6 and store.rows(["id-0002"])["id-0002"].thumbnail == b"last"


def test_delete(opened: Open) -> None:
    store = opened()
    store.add([record(n) for n in range(1500)])
    store.delete([f"id-{n:04}" for n in range(0, 1500, 2)])
    assert store.count() == 750
    assert store.rows(["id-0002"]) == {} and "id-0003" in store.rows(["id-0003"])
    assert all(n % 2 for n in found(store.search(record(2).vector, 100)[0]))
    store.add([record(2)])
    assert found(store.search(record(2).vector, 1)[0]) == [2]


def test_all_vectors_some_at_a_time(opened: Open) -> None:
    store = opened()
    records = {f"id-{n:04}": record(n, ("image", "text")[n % 2]) for n in range(1200)}
    store.add(list(records.values()))
    for where in ((), (Condition("modality", "in", ("text",)),), (Condition("caption", "contains", 'NUMBER" 7 '),)):
        entries: list[Entry] = []
        for some, vectors in store.vectors(where):
            assert vectors.shape == (len(some), DIM) and vectors.dtype == np.float32
            for entry, vector in zip(some, vectors, strict=True):
                assert vector.tolist() == records[entry.id].vector.tolist()
            entries += some
        expected = [r.entry for r in records.values() if passes(where, r.entry)]
        assert sorted(entries, key=lambda entry: entry.id) == expected and expected


def test_search_is_exact_and_ordered(opened: Open) -> None:
    store = opened()
    records = [record(n, ("image", "audio", "text")[n % 3]) for n in range(400)]
    records += [record(n, seed=0) for n in (900, 800)]  # ties with row 0
    store.add(records)
    matrix = np.stack([r.vector for r in records]).astype(np.float64)
    minus = records[0].vector - 2 * records[1].vector  # away from something, and not of unit length
    for query in (records[0].vector, record(5000).vector, minus, -records[0].vector):
        scores = matrix @ query.astype(np.float64)
        expected = sorted(zip(-scores.round(9), [r.entry.id for r in records], strict=True))[:20]
        hits = store.search(query, 20)[0]
        assert [hit.id for hit in hits] == [id_ for _, id_ in expected]
        np.testing.assert_allclose([-hit.score for hit in hits], [score for score, _ in expected], atol=1e-6)
    many = store.search(matrix[:9].astype(np.float32), 3)
    assert many == [store.search(row.astype(np.float32), 3)[0] for row in matrix[:9]]
    assert len(store.search(records[0].vector, 10_000)[0]) == 402


def test_as_many_answers_as_are_asked_for(opened: Open) -> None:
    store = opened()
    records = [record(n, ("image", "text")[n % 2]) for n in range(17_000)]  # at once Milvus gives 16,384 of them
    for start in range(0, len(records), 5000):
        store.add(records[start : start + 5000])
    query = record(5000).vector
    assert len(store.search(query, 5000)[0]) == 5000  # of what was just written Milvus by itself looks at a part
    texts = [Condition("modality", "in", ("text",))]
    assert len(store.search(query, 9000, texts)[0]) == 8500
    scores = np.stack([r.vector for r in records]).astype(np.float64) @ query.astype(np.float64)
    expected = sorted(zip(-scores.round(9), [r.entry.id for r in records], strict=True))[:16_500]
    assert [hit.id for hit in store.search(query, 16_500)[0]] == [id_ for _, id_ in expected]


ODD = "/media/it's % _ \u732b/"
FILTERS: list[tuple[Condition, ...]] = [
    (Condition("modality", "in", ("image",)),),
    (Condition("modality", "in", ("image", "no'such")),),
    (Condition("modality", "in", ("image", "text"), negated=True),),
    (Condition("modality", "in", ('no"such',)),),
    (Condition("path", "prefix", ODD),),
    (Condition("path", "prefix", "/media/audio/1", negated=True), Condition("modality", "in", ("audio",))),
    (Condition("caption", "contains", 'NUMBER" 4'),),
    (Condition("caption", "contains", "\u00c9t\u00c9 100% _"),),
    (Condition("caption", "contains", "number", negated=True),),
    (Condition("tags", "has", ("odd",)), Condition("size", ">=", 20)),
    (Condition("tags", "has", ("it's \u732b", "rare")),),
    (Condition("tags", "has", ("rare",)),),
    (Condition("tags", "has", ("odd", "rare"), negated=True),),
    (Condition("tags", "has", ("od",)),),
    (Condition("duration", ">=", 3.25),),
    (Condition("duration", "<=", 3.25),),
    (Condition("duration", "<=", 3.25, negated=True),),
    (Condition("start", ">=", 0),),
    (Condition("size", "in", (1, 2, 77)),),
    (Condition("size", ">=", 2.5), Condition("size", "<=", 7.5)),
    (Condition("mtime", ">=", 10**18 + 30),),
    (Condition("mtime", "<=", 10**18 + 5),),
    (Condition("added", "<=", -1),),
    (Condition("digest", "in", (f"{7:064x}",)),),
    (Condition("id", "in", ("id-0003", "id-0004", "id-9999")),),
    (Condition("id", "in", tuple(f"id-{n:04}" for n in range(3, 1000)), negated=True),),
    (Condition("item", "in", ("item-3",)), Condition("part", ">=", 1)),
    (Condition("branch", "in", ("text",)), Condition("parts", "in", (2,)), Condition("label", "prefix", "fr")),
]


def test_every_field_can_be_filtered_by() -> None:
    assert {condition.field for where in FILTERS for condition in where} == set(COLUMNS)


def test_filters(opened: Open) -> None:
    store = opened()
    records = [record(n, "image" if n % 2 else "audio") for n in range(40)]
    records += [record(n, "text", path=f"{ODD}{n}", label=f"frame {n}", start=n / 7) for n in range(40, 50)]
    records += [record(50, "text", caption="L'\u00e9t\u00e9 100% _", tags=("rare", "odd"), added=-5)]
    store.add(records)
    query = record(1).vector
    everything = [hit.id for hit in store.search(query, 100)[0]]
    for where in FILTERS:
        expected = {r.entry.id for r in records if passes(where, r.entry)}
        assert [hit.id for hit in store.search(query, 100, where)[0]] == [i for i in everything if i in expected], where
        assert [hit.id for hit in store.search(query, 2, where)[0]] == [i for i in everything if i in expected][:2]
        assert {entry.id for entry in store.entries(where)} == expected, where
    store.add([record(41, "image")])  # an old answer about this row would be wrong now
    assert found(store.search(query, 100, FILTERS[4])[0]).count(41) == 0
    assert found(store.search(query, 100, FILTERS[0])[0]).count(41) == 1


NOT_FINITE = np.full(DIM, np.nan, np.float32)
UNIT = np.eye(DIM, dtype=np.float32)[0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(record(3), vector=np.ones(DIM + 1, np.float32)), "12 finite numbers"),
        (replace(record(3), vector=np.full(DIM, np.nan, np.float32)), "finite"),
        (replace(record(3), vector=np.where(np.arange(DIM) == 2, np.inf, UNIT).astype(np.float32)), "finite"),
        (replace(record(3), vector=np.zeros(DIM, np.float32)), "unit length"),
        (replace(record(3), vector=2 * UNIT), "unit length"),
        (record(3, path="/\udcff"), "not Unicode"),
        (record(3, tags=("fine", "\ud800")), "not Unicode"),
    ],
)
def test_records_that_are_refused(bad: Record, said: str, tmp_path: Path) -> None:
    for store in (SqliteStore(tmp_path, SPACE), *_lance(tmp_path / "lance")):
        store.add([record(1)])
        with pytest.raises(ValueError, match=said):
            store.add([record(2), bad])
        assert [entry.id for entry in store.entries()] == ["id-0001"]  # nothing of a refused call is there


def test_wrong_arguments(opened: Open) -> None:
    store = opened()
    store.add([record(1)])
    with pytest.raises(ValueError, match="unit length"):
        store.add([record(2), replace(record(3), vector=np.zeros(DIM, np.float32))])
    assert store.count() == 1
    for query in (np.ones(DIM + 1), np.ones((2, 2, DIM)), np.zeros(DIM), NOT_FINITE, np.stack([UNIT, 0 * UNIT])):
        with pytest.raises(ValueError):
            store.search(query, 1)
    with pytest.raises(ValueError):
        store.search(UNIT, 0)


def test_usable_after_finish_and_close(opened: Open) -> None:
    store = opened()
    for n in range(6):
        store.add([record(n)])
        store.finish()
    assert found(store.search(record(3).vector, 1)[0]) == [3]
    store.close()
    assert store.count() == 6 and found(store.search(record(3).vector, 1)[0]) == [3]
    store.add([record(9)])
    assert found(store.search(record(9).vector, 1)[0]) == [9]


def test_rows_are_there_after_reopening_and_seen_by_others(opened: Open) -> None:
    writer, reader = opened(), opened()
    assert reader.search(record(1).vector, 5) == [[]]
    writer.add([record(1)])
    assert reader.count() == 1
    soon(lambda: found(reader.search(record(1).vector, 1)[0]), [1])
    writer.add([record(2)])
    soon(lambda: found(reader.search(record(2).vector, 1)[0]), [2])
    writer.delete(["id-0001"])
    soon(lambda: found(reader.search(record(1).vector, 5)[0]), [2])
    assert opened().count() == 1


def test_another_model_is_refused(opened: Open, address: str) -> None:
    opened().add([record(1)])
    assert find_space(address) == SPACE
    for other in (replace(SPACE, fingerprint="beef"), replace(SPACE, dim=DIM + 1)):
        with pytest.raises(OtherModelError, match=r"a-model \(f00d, 12 numbers each\).*index again"):
            open_store(address, other)
    assert open_store(address, replace(SPACE, model="/the/same/elsewhere")).count() == 1


def test_no_store_no_space(engine: str, address: str) -> None:
    assert find_space(address + "_new") is None


def test_many_threads(opened: Open) -> None:
    """Several writers and readers at once: nothing is lost, and no search fails or sees a row twice."""
    opened()
    done = threading.Event()

    def write(writer: int) -> None:
        store = opened()
        for n in range(4):
            store.add([record(100 * writer + 10 * n + i) for i in range(5)])
        store.delete([f"id-{100 * writer:04}"])

    def read() -> None:
        store, last = opened(), False
        while not last:  # once more after the writers, who may be done before a slow reader has begun
            last = done.is_set()
            hits = found(store.search(UNIT, 1000)[0])
            assert len(hits) == len(set(hits))

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            list(pool.map(write, range(3)))
        finally:
            done.set()
        for reader in readers:
            reader.result()
    expected = {100 * w + 10 * n + i for w in range(3) for n in range(4) for i in range(5)} - {0, 100, 200}
    store = opened()
    assert {int(entry.id[3:]) for entry in store.entries()} == expected
    soon(lambda: sorted(found(store.search(UNIT, 1000)[0])), sorted(expected))


def test_two_writers_of_the_same_rows(opened: Open) -> None:
    opened()
    records = [record(n) for n in range(5)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda store: [store.add(records) for _ in range(3)], [opened() for _ in range(3)]))
    assert sorted(entry.id for entry in opened().entries()) == [f"id-{n:04}" for n in range(5)]


TESTS = Path(__file__).parents[2]
_WRITER = """
import sys
sys.path[:0] = sys.argv[2:]
from search.stores.test_store_conformance import SPACE, record
from one_peace.search.stores.engines import open_store
store = open_store(sys.argv[1], SPACE)
for n in range(0, 100_000, 10):
    store.add([record(m) for m in range(n, n + 10)])
    print(n + 10, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(engine: str, opened: Open, address: str) -> None:
    command = [sys.executable, "-c", _WRITER, address, *map(str, (TESTS, TESTS / "support"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        while seen < 70:
            seen = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        seen = max([seen, *map(int, process.stdout.read().split())])
    store = opened()
    assert seen <= store.count() <= seen + 10
    if engine != "milvus":  # all of a call or nothing
        assert store.count() % 10 == 0
    assert {entry.id for entry in store.entries()} >= {f"id-{n:04}" for n in range(seen)}
    store.add([record(100_000)])
    soon(lambda: store.search(record(100_000).vector, 1)[0][0].id, "id-100000")


def test_moving_to_another_engine(opened: Open, tmp_path: Path) -> None:
    source, target = opened(), SqliteStore(tmp_path / "target", SPACE)
    records = [record(n, ("image", "audio")[n % 2]) for n in range(30)]
    source.add(records)
    assert move_store(source, target) == 30
    assert target.rows(["id-0007"])["id-0007"].thumbnail == records[7].thumbnail
    for each in (source, target):
        assert [hit.id for hit in each.search(UNIT, 30)[0]] == [hit.id for hit in target.search(UNIT, 30)[0]]
    other = SqliteStore(tmp_path / "other", replace(SPACE, fingerprint="beef"))
    with pytest.raises(StoreError, match="cannot be mixed"):
        move_store(source, other)


def _lance(folder: Path) -> list[LanceStore]:
    try:
        return [LanceStore(str(folder), SPACE)]
    except ImportError:
        return []


def test_a_full_disk_has_an_error_of_its_own(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, SPACE)
    connect = sqlite3.connect

    def small(*arguments: Any, **named: Any) -> sqlite3.Connection:
        db = connect(*arguments, **named)
        db.execute("PRAGMA max_page_count = 1")
        return db

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        with pytest.raises(StoreFullError, match="disk is full"):
            store.add([record(n, caption="x" * 100_000) for n in range(9)])
    assert store.count() == 0
    assert isinstance(
        failure("a", RuntimeError("LanceError(IO): No space left on device (os error 28)")), StoreFullError
    )
    assert not isinstance(failure("a", RuntimeError("refused")), StoreFullError)
