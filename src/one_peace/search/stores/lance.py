"""The embedded store: a LanceDB table in a folder, or on an object store where several machines write to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import randbits
from threading import RLock
from typing import Any, TypeVar

import numpy as np

from one_peace.errors import MissingExtraError
from one_peace.search.filters import Filter
from one_peace.search.records import COLUMNS, Entry, Hit, Record, Space
from one_peace.search.stores.background import Background
from one_peace.search.stores.base import (
    StoreError,
    check_queries,
    check_records,
    check_space,
    failure,
)
from one_peace.search.stores.lance_rows import among, entries_of, schema, space_of, sql, vectors_of
from one_peace.search.stores.snapshot import Rows, Snapshot

EXACT_NUMBERS = 100_000 * 192
"""Rows times dimensions up to which every search scans all rows: measured, below it that is faster than the index.

See docs/stores.md. The scan takes time in proportion to it, the index hardly any more for more rows.
"""
_TABLE = "items"
_OVERFETCH = 8  # the index holds vectors in 8 bits: this many times k come from it, to be scored exactly
_BEAM = 160  # of the HNSW search, at least
_ROWS_PER_BATCH = 8192
_WRITES_PER_UPKEEP = 64
_OLD_VERSIONS = timedelta(hours=1)  # kept for those who are reading them
_PATIENCE = 60.0  # seconds to try again when another writer was faster

T = TypeVar("T")


@dataclass(frozen=True)
class _State:
    """What is known of one version of the table."""

    version: int
    count: int
    indexed: bool


class LanceStore:
    """A `VectorStore` at `address`: a folder, made if it is not there, or the URL of an object store (s3://bucket/path).

    For object stores LanceDB takes keys, region and endpoint from the environment (AWS_ACCESS_KEY_ID, ...).

    Every write is one atomic version of the table. Up to `EXACT_NUMBERS` searches are exact, by our scan of all rows.
    Above, `finish` has an index made in the background. Until it is there searches stay exact. Then rows come from it,
    more than asked for, and are scored exactly, so that a few of the true answers may be missing; rows that came after
    the index are scanned besides.

    Raises:
        MissingExtraError: LanceDB is not installed.
        OtherModelError: the vectors at `address` are another model's.
        StoreError: the address cannot be reached.
    """

    def __init__(self, address: str, space: Space) -> None:
        self.space = space
        self.address = address
        self._database = _connect(address)
        self._table = self._open()
        check_space(space_of(self._table, address), space, address)
        self._folder = None if "://" in address else Path(address)
        self._lock = RLock()
        self._known: _State | None = None
        self._snapshot: tuple[int, Snapshot] | None = None
        self._writes = 0
        self._upkeep = Background(self._maintain, address)

    def add(self, records: Sequence[Record]) -> None:
        latest = check_records(records, self.space.dim)
        if not latest:
            return
        revision = randbits(63)  # by which readers see what has changed
        rows = [
            {**asdict(r.entry), "revision": revision, "thumbnail": r.thumbnail, "vector": np.asarray(r.vector, "f4")}
            for r in latest
        ]
        import pyarrow

        table = pyarrow.Table.from_pylist(rows, schema=schema(self.space))
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        self._write(partial(merge.execute, table))
        self._writes += 1
        if self._writes % _WRITES_PER_UPKEEP == 0:  # every write is a file, and every write looks at all of them
            self._upkeep.start()

    def delete(self, ids: Sequence[str]) -> None:
        for condition in among(ids):
            self._write(partial(self._table.delete, condition))

    def count(self) -> int:
        with self._explained():
            return int(self._table.count_rows())

    def entries(self, where: Filter = ()) -> list[Entry]:
        return [entry for table in self._read([*COLUMNS], sql(where)) for entry in entries_of(table)]

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for condition in among(ids):
            for table in self._read([*COLUMNS, "thumbnail", "vector"], condition):
                parts = (entries_of(table), vectors_of(table, self.space.dim), table["thumbnail"].to_pylist())
                found |= {entry.id: Record(entry, vector, small) for entry, vector, small in zip(*parts, strict=True)}
        return found

    def vectors(self, where: Filter = ()) -> Iterator[tuple[list[Entry], np.ndarray]]:
        for table in self._read([*COLUMNS, "vector"], sql(where)):
            yield entries_of(table), vectors_of(table, self.space.dim)

    def search(self, vectors: np.ndarray, k: int, where: Filter = ()) -> list[list[Hit]]:
        queries = check_queries(vectors, k, self.space.dim)
        state = self._state()
        if not state.indexed or state.count * self.space.dim <= EXACT_NUMBERS:
            return self._latest(state.version).search(queries, k, where)
        condition = sql(where)
        return [self._by_index(query, k, condition) for query in queries]

    def finish(self) -> None:
        self._upkeep.start()

    def settle(self) -> None:
        self._upkeep.wait()

    def close(self) -> None:
        self.settle()
        with self._lock:
            self._snapshot = None

    def _open(self) -> Any:
        try:
            return self._database.open_table(_TABLE)
        except ValueError:  # not there yet
            pass
        except (RuntimeError, OSError) as error:
            raise failure(f"{self.address} cannot be opened", error) from error
        try:
            return self._database.create_table(_TABLE, schema=schema(self.space), exist_ok=True)
        except ValueError:  # somebody else made it this moment, for another model
            return self._database.open_table(_TABLE)
        except (RuntimeError, OSError) as error:
            raise failure(f"{self.address} cannot be made", error) from error

    def _state(self) -> _State:
        with self._explained():
            version = int(self._table.version)
            known = self._known
            if known is None or known.version != version:
                indexed = any(index.columns == ["vector"] for index in self._table.list_indices())
                self._known = known = _State(version, self.count(), indexed)
            return known

    def _latest(self, version: int) -> Snapshot:
        with self._lock:
            if self._snapshot is None:
                self._snapshot = (-1, Snapshot(self.space.dim, self._folder))
            seen, snapshot = self._snapshot
            if seen != version:
                revisions: dict[str, int] = {}
                for table in self._read(["id", "revision"]):
                    revisions |= zip(table["id"].to_pylist(), table["revision"].to_pylist(), strict=True)
                snapshot.refresh(revisions, self._fetch)
                self._snapshot = (version, snapshot)
            return snapshot

    def _fetch(self, ids: Sequence[str] | None) -> Rows:
        for condition in among(ids) if ids is not None else [None]:
            for table in self._read([*COLUMNS, "revision", "vector"], condition):
                yield entries_of(table), table["revision"].to_pylist(), vectors_of(table, self.space.dim)

    def _by_index(self, query: np.ndarray, k: int, condition: str | None) -> list[Hit]:
        wanted = k * _OVERFETCH
        search = self._table.search(query, vector_column_name="vector").distance_type("dot").limit(wanted)
        search = search.select(["id", "vector", "_distance"]).ef(max(_BEAM, wanted))
        if condition is not None:
            search = search.where(condition, prefilter=True)
        with self._explained():
            table = search.to_arrow()
            if len(table) < k:  # the graph has no way to more rows that pass; are there any?
                table = search.bypass_vector_index().to_arrow()
        scores = (vectors_of(table, self.space.dim).astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        ranked = sorted(zip((-scores).tolist(), table["id"].to_pylist(), strict=True))[:k]
        return [Hit(id_, -negative) for negative, id_ in ranked]

    def _maintain(self) -> None:
        # Rows added after the indexes were made go into them here.
        self._write(partial(self._table.optimize, cleanup_older_than=_OLD_VERSIONS))
        if self.count() * self.space.dim <= EXACT_NUMBERS:
            return
        from lancedb.index import Bitmap, BTree, HnswSq

        # The index of vectors last: it is what searches go by, and they look rows up by their ids.
        indexes = {"id": BTree(), "modality": Bitmap(), "branch": Bitmap()}
        indexes["vector"] = HnswSq(distance_type="dot", m=20, ef_construction=150)
        there = {index.columns[0] for index in self._table.list_indices()}
        for column, settings in indexes.items():
            if column not in there:
                self._write(partial(self._table.create_index, column, config=settings))

    def _write(self, action: Callable[[], T]) -> T:
        """Tries again while other writers are faster: LanceDB refuses a change to what has changed since."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                return action()
            except (RuntimeError, ValueError, OSError) as error:
                if "conflict" not in str(error).lower():
                    raise failure(self.address, error) from error
                if time.monotonic() > give_up:
                    raise StoreError(f"{self.address}: other writers left no room for {_PATIENCE:.0f} s") from error
                time.sleep(0.02 + 0.2 * randbits(8) / 256)

    def _read(self, columns: list[str], condition: str | None = None) -> Iterator[Any]:
        """Tables of some thousand rows."""
        import pyarrow

        with self._explained():
            search = self._table.search().select(columns)
            search = search.where(condition) if condition else search
            for batch in search.to_batches(_ROWS_PER_BATCH):
                if len(batch):
                    yield pyarrow.Table.from_batches([batch])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Failures of the engine, when it reads, as `StoreError`."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            raise failure(self.address, error) from error


def space_at(address: str) -> Space | None:
    """Whose vectors are at `address`; None if there is no table.

    Raises:
        MissingExtraError, StoreError: as `LanceStore`.
    """
    try:
        return space_of(_connect(address).open_table(_TABLE), address)
    except ValueError:
        return None
    except (RuntimeError, OSError) as error:
        raise StoreError(f"{address} cannot be opened: {error}") from error


def _connect(address: str) -> Any:
    try:
        import lancedb
    except ImportError as error:
        raise MissingExtraError(f"{address} is kept in LanceDB; opening it", "search") from error
    try:
        return lancedb.connect(address, read_consistency_interval=timedelta(0))
    except (RuntimeError, OSError, ValueError) as error:
        raise StoreError(f"{address} cannot be opened: {error}") from error
