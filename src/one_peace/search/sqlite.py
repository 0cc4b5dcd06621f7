"""The store of small libraries where LanceDB is not installed: one SQLite file, searched by the exact scan."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np

from one_peace.errors import MissingExtraError
from one_peace.search.records import Entry, Hit, Record
from one_peace.search.snapshot import EXACT_LIMIT, Snapshot
from one_peace.search.store import check_vectors

_FILE = "items.sqlite"
_COLUMNS = ", ".join(field.name for field in fields(Entry))
_WIDTH = len(fields(Entry))
_IDS_PER_STATEMENT = 500
_PATIENCE = 30.0  # seconds to wait for another process to finish its transaction


class SqliteStore:
    """A `VectorStore` of vectors (dim,) in a file in `folder`, made if it is not there.

    Every write is one transaction. It holds up to `EXACT_LIMIT` rows: searches keep all vectors in memory.

    Raises:
        ValueError: the file holds vectors of another length.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.dim = dim
        self._path = folder / _FILE
        self._snapshot: tuple[int, Snapshot] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        with self._transaction() as db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, path TEXT NOT NULL, modality TEXT NOT NULL, "
                "digest TEXT NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, caption TEXT NOT NULL, "
                "duration REAL, thumbnail BLOB, vector BLOB NOT NULL)"
            )
            row = db.execute("SELECT length(vector) / 4 FROM items LIMIT 1").fetchone()
        if row is not None and row[0] != dim:
            raise ValueError(f"{folder} holds vectors of length {row[0]}, not {dim}")

    def add(self, records: Sequence[Record]) -> None:
        """As `VectorStore.add`.

        Raises:
            MissingExtraError: there would be more than `EXACT_LIMIT` rows, which takes LanceDB.
        """
        check_vectors(records, self.dim)
        rows = [(*astuple(r.entry), r.thumbnail, np.asarray(r.vector, "<f4").tobytes()) for r in records]
        marks = ", ".join("?" * (_WIDTH + 2))
        with self._transaction(writes=True) as db:
            db.executemany(f"REPLACE INTO items ({_COLUMNS}, thumbnail, vector) VALUES ({marks})", rows)
            if _count(db) > EXACT_LIMIT:
                raise MissingExtraError(f"a library of more than {EXACT_LIMIT} files", "search")

    def delete(self, ids: Sequence[str]) -> None:
        with self._transaction(writes=True) as db:
            db.executemany("DELETE FROM items WHERE id = ?", [(id_,) for id_ in ids])

    def count(self) -> int:
        with self._transaction() as db:
            return _count(db)

    def entries(self) -> list[Entry]:
        with self._transaction() as db:
            return [Entry(*row) for row in db.execute(f"SELECT {_COLUMNS} FROM items")]

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        with self._transaction() as db:
            for start in range(0, len(ids), _IDS_PER_STATEMENT):
                part = ids[start : start + _IDS_PER_STATEMENT]
                condition = f"id IN ({', '.join('?' * len(part))})"
                for row in db.execute(f"SELECT {_COLUMNS}, thumbnail, vector FROM items WHERE {condition}", part):
                    found[row[0]] = Record(Entry(*row[:_WIDTH]), np.frombuffer(row[-1], "<f4"), row[-2])
        return found

    def search(
        self, vectors: np.ndarray, k: int, *, modality: str | None = None, prefix: str | None = None
    ) -> list[list[Hit]]:
        return self._latest().search(vectors, k, modality, prefix)

    def finish(self) -> None:
        """Nothing to compact: the room of removed rows is used again."""

    def close(self) -> None:
        self._snapshot = None

    def _latest(self) -> Snapshot:
        with self._transaction() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if self._snapshot is None or self._snapshot[0] != version:
                rows = db.execute("SELECT id, path, modality, vector FROM items").fetchall()
                vectors = np.frombuffer(b"".join(row[3] for row in rows), "<f4").reshape(-1, self.dim)
                ids, paths, modalities = ([row[i] for row in rows] for i in range(3))
                self._snapshot = (version, Snapshot(ids, paths, modalities, vectors))
            return self._snapshot[1]

    @contextmanager
    def _transaction(self, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection of its own, so that any thread may ask. A write counts the version of the table up."""
        with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield db
            if writes:
                version = int(db.execute("PRAGMA user_version").fetchone()[0])
                db.execute(f"PRAGMA user_version = {(version + 1) % 2**31}")
            db.execute("COMMIT")  # without it, closing the connection rolls back


def _count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM items").fetchone()[0])
