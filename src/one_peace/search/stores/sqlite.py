"""The store that needs nothing installed: one SQLite file, searched by the exact scan."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from one_peace.search.filters import Filter, passes
from one_peace.search.records import COLUMNS, Entry, Hit, Record, Space
from one_peace.search.stores.base import (
    StoreError,
    check_queries,
    check_records,
    check_space,
    failure,
    space_from_json,
    space_to_json,
)
from one_peace.search.stores.snapshot import Rows, Snapshot

_FILE = "items.sqlite"
_NAMES = ", ".join(COLUMNS)
_WIDTH = len(COLUMNS)
_TYPES = {str: "TEXT NOT NULL", int: "INTEGER NOT NULL", float | None: "REAL", tuple[str, ...]: "TEXT NOT NULL"}
_IDS_PER_STATEMENT = 500
_ROWS_PER_BATCH = 4096
_PATIENCE = 30.0  # seconds to wait for another process to finish its transaction


class SqliteStore:
    """A `VectorStore` in a file in `folder`, made if it is not there.

    Every write is one transaction. All searches are exact: they take time in proportion to the number of rows.

    Raises:
        OtherModelError: the vectors in `folder` are another model's.
        StoreError: the file is damaged, or not to be written.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        self.space = space
        self._folder, self._path = folder, folder / _FILE
        self._lock = RLock()
        self._snapshot: tuple[int, Snapshot] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failure(f"{folder} cannot be made", error) from error
        found = space_at(folder)
        if found is None:
            self._create()
            found = space_at(folder) or space
        check_space(found, space, str(folder))

    def add(self, records: Sequence[Record]) -> None:
        latest = check_records(records, self.space.dim)
        if not latest:
            return
        marks = ", ".join("?" * (_WIDTH + 3))
        with self._transaction(writes=True) as (db, version):
            rows = [(*_values(r.entry), version, r.thumbnail, np.asarray(r.vector, "<f4").tobytes()) for r in latest]
            db.executemany(f"REPLACE INTO items ({_NAMES}, revision, thumbnail, vector) VALUES ({marks})", rows)

    def delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        with self._transaction(writes=True) as (db, _):
            db.executemany("DELETE FROM items WHERE id = ?", [(id_,) for id_ in ids])

    def count(self) -> int:
        with self._transaction() as (db, _):
            return int(db.execute("SELECT count(*) FROM items").fetchone()[0])

    def entries(self, where: Filter = ()) -> list[Entry]:
        with self._transaction() as (db, _):
            found = (_entry(row) for row in db.execute(f"SELECT {_NAMES} FROM items"))
            return [entry for entry in found if passes(where, entry)]

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        with self._transaction() as (db, _):
            for part, marks in _portions(ids):
                for row in db.execute(f"SELECT {_NAMES}, thumbnail, vector FROM items WHERE id IN ({marks})", part):
                    found[row[0]] = Record(_entry(row[:_WIDTH]), np.frombuffer(row[-1], "<f4"), row[-2])
        return found

    def vectors(self, where: Filter = ()) -> Iterator[tuple[list[Entry], np.ndarray]]:
        last = ""
        statement = f"SELECT {_NAMES}, vector FROM items WHERE id > ? ORDER BY id LIMIT {_ROWS_PER_BATCH}"
        while True:  # a transaction for each batch: writers are not to wait for the caller
            with self._transaction() as (db, _):
                rows = db.execute(statement, (last,)).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            both = [(_entry(row[:_WIDTH]), row[-1]) for row in rows]
            both = [(entry, vector) for entry, vector in both if passes(where, entry)]
            if both:
                yield [entry for entry, _ in both], self._matrix([vector for _, vector in both])

    def search(self, vectors: np.ndarray, k: int, where: Filter = ()) -> list[list[Hit]]:
        queries = check_queries(vectors, k, self.space.dim)
        return self._latest().search(queries, k, where)

    def finish(self) -> None:
        """Nothing to compact: the room of removed rows is used again."""

    def settle(self) -> None:
        """Nothing goes on in the background."""

    def close(self) -> None:
        with self._lock:
            self._snapshot = None

    def _latest(self) -> Snapshot:
        with self._lock, self._transaction() as (db, version):
            if self._snapshot is None:
                self._snapshot = (-1, Snapshot(self.space.dim, self._folder))
            seen, snapshot = self._snapshot
            if seen != version:
                revisions = dict(db.execute("SELECT id, revision FROM items"))
                snapshot.refresh(revisions, lambda ids: self._fetch(db, ids))
                self._snapshot = (version, snapshot)
            return snapshot

    def _fetch(self, db: sqlite3.Connection, ids: Sequence[str] | None) -> Rows:
        statement = f"SELECT {_NAMES}, revision, vector FROM items"
        if ids is None:
            cursors = [db.execute(statement)]
        else:
            cursors = [db.execute(f"{statement} WHERE id IN ({marks})", part) for part, marks in _portions(ids)]
        for cursor in cursors:
            while rows := cursor.fetchmany(_ROWS_PER_BATCH):
                entries = [_entry(row[:_WIDTH]) for row in rows]
                yield entries, [row[-2] for row in rows], self._matrix([row[-1] for row in rows])

    def _matrix(self, blobs: Sequence[bytes]) -> np.ndarray:
        return np.frombuffer(b"".join(blobs), "<f4").reshape(-1, self.space.dim)

    def _create(self) -> None:
        columns = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in COLUMNS.items())
        with self._transaction(writes=True) as (db, _):
            db.execute("CREATE TABLE IF NOT EXISTS space (one INTEGER PRIMARY KEY, contents TEXT NOT NULL)")
            db.execute("INSERT OR IGNORE INTO space VALUES (1, ?)", (space_to_json(self.space),))
            db.execute(
                f"CREATE TABLE IF NOT EXISTS items ({columns}, revision INTEGER NOT NULL, thumbnail BLOB, "
                "vector BLOB NOT NULL, PRIMARY KEY (id))"
            )

    @contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[tuple[sqlite3.Connection, int]]:
        """A connection of its own, so that any thread may ask, and the version of the table: a write counts it up."""
        try:
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                version = int(db.execute("PRAGMA user_version").fetchone()[0])
                if writes:
                    version = (version + 1) % 2**31
                    db.execute(f"PRAGMA user_version = {version}")
                yield db, version
                db.execute("COMMIT")  # without it, closing the connection rolls back
        except sqlite3.Error as error:
            raise failure(self._path, error) from error


def space_at(folder: Path) -> Space | None:
    """Whose vectors are in `folder`; None if there is no store of this kind.

    Raises:
        StoreError: it is damaged, or of another version.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if not tables:  # a process was killed while it made it
                return None
            row = db.execute("SELECT contents FROM space").fetchone() if "space" in tables else None
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    return space_from_json(row and row[0], str(folder))


def _values(entry: Entry) -> list[Any]:
    values = (getattr(entry, name) for name in COLUMNS)
    return [json.dumps(value) if isinstance(value, tuple) else value for value in values]


def _entry(row: Sequence[Any]) -> Entry:
    pairs = zip(row, COLUMNS.values(), strict=True)
    values: list[Any] = [tuple(json.loads(value)) if kind == tuple[str, ...] else value for value, kind in pairs]
    return Entry(*values)


def _portions(ids: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        part = ids[start : start + _IDS_PER_STATEMENT]
        yield part, ", ".join("?" * len(part))
