"""The embedded store on disk: a LanceDB table, searched exactly while it is small, by an HNSW index above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.errors import MissingExtraError
from one_peace.search.exact import inner_products
from one_peace.search.records import Entry, Hit, Record
from one_peace.search.snapshot import EXACT_LIMIT, Snapshot
from one_peace.search.store import check_vectors

_TABLE = "items"
_COLUMNS = [field.name for field in fields(Entry)]
_OVERFETCH = 8  # the index holds vectors in 8 bits: this many times k come from it, to be scored exactly
_BEAM = 128  # of the HNSW search, at least
_IDS_PER_STATEMENT = 1000
_OLD_VERSIONS = timedelta(hours=1)  # kept for those who are reading them


class LanceStore:
    """A `VectorStore` of vectors (dim,) in `folder`, made if it is not there.

    Every write is one atomic version of the table: a process killed at any moment loses nothing that a call
    returned for. Readers see the newest version, also of other processes' writes.
    Up to `EXACT_LIMIT` rows searches are exact, by our scan: LanceDB's own takes 17 times as long. Above, rows
    come from an index and are scored exactly; a few of the true answers may be missing.

    Raises:
        MissingExtraError: LanceDB is not installed.
        ValueError: the table in `folder` holds vectors of another length.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise MissingExtraError(f"{folder} is kept in LanceDB; opening it", "search") from error
        self.dim = dim
        self._arrow: Any = pyarrow
        database: Any = lancedb.connect(folder, read_consistency_interval=timedelta(0))
        try:
            self._table = database.open_table(_TABLE)
        except ValueError:  # not there yet
            self._table = database.create_table(_TABLE, schema=self._schema(), exist_ok=True)
        found = self._table.schema.field("vector").type.list_size
        if found != dim:
            raise ValueError(f"{folder} holds vectors of length {found}, not {dim}")
        self._snapshot: tuple[int, Snapshot] | None = None

    def add(self, records: Sequence[Record]) -> None:
        check_vectors(records, self.dim)
        if not records:
            return
        latest = {record.entry.id: record for record in records}.values()  # of equal ids the last one
        rows = [
            {**asdict(r.entry), "thumbnail": r.thumbnail, "vector": np.asarray(r.vector, np.float32)} for r in latest
        ]
        table = self._arrow.Table.from_pylist(rows, schema=self._schema())
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(table)

    def delete(self, ids: Sequence[str]) -> None:
        for condition in _among(ids):
            self._table.delete(condition)

    def count(self) -> int:
        return int(self._table.count_rows())

    def entries(self) -> list[Entry]:
        return [Entry(**row) for row in self._read(_COLUMNS).to_pylist()]

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for condition in _among(ids):
            table = self._read([*_COLUMNS, "thumbnail", "vector"], condition)
            vectors = self._matrix(table)
            for i, row in enumerate(table.drop_columns(["vector"]).to_pylist()):
                thumbnail = row.pop("thumbnail")
                found[row["id"]] = Record(Entry(**row), vectors[i], thumbnail)
        return found

    def search(
        self, vectors: np.ndarray, k: int, *, modality: str | None = None, prefix: str | None = None
    ) -> list[list[Hit]]:
        if self.count() <= EXACT_LIMIT:
            return self._latest().search(vectors, k, modality, prefix)
        conditions = []
        if modality is not None:
            conditions.append(f"modality = {_quote(modality)}")
        if prefix is not None:
            conditions.append(f"starts_with(path, {_quote(prefix)})")
        queries = np.atleast_2d(np.asarray(vectors, np.float32))
        return [self._by_index(query, k, " AND ".join(conditions)) for query in queries]

    def finish(self) -> None:
        # Rows added after the index was made go into it here, and are scanned until then.
        self._table.optimize(cleanup_older_than=_OLD_VERSIONS)
        if self.count() > EXACT_LIMIT and not self._table.list_indices():
            from lancedb.index import HnswSq

            settings = HnswSq(distance_type="cosine", m=16, ef_construction=100)
            self._table.create_index("vector", config=settings)

    def close(self) -> None:
        self._snapshot = None

    def _latest(self) -> Snapshot:
        version = self._table.version
        if self._snapshot is None or self._snapshot[0] != version:
            table = self._read(["id", "path", "modality", "vector"])
            ids, paths, modalities = (table[name].to_pylist() for name in ("id", "path", "modality"))
            self._snapshot = (version, Snapshot(ids, paths, modalities, self._matrix(table)))
        return self._snapshot[1]

    def _by_index(self, query: np.ndarray, k: int, condition: str) -> list[Hit]:
        search = self._table.search(query, vector_column_name="vector").distance_type("cosine")
        search = search.select(["id", "vector"]).limit(k * _OVERFETCH).ef(max(_BEAM, k * _OVERFETCH))
        table = (search.where(condition, prefilter=True) if condition else search).to_arrow()
        scores = inner_products(self._matrix(table), query)
        ranked = sorted(zip(-scores, table["id"].to_pylist(), strict=True))[:k]
        return [Hit(id_, -float(negative)) for negative, id_ in ranked]

    def _read(self, columns: list[str], condition: str | None = None) -> Any:
        search = self._table.search().select(columns).limit(None)
        return (search.where(condition) if condition else search).to_arrow()

    def _matrix(self, table: Any) -> np.ndarray:
        """The column of vectors as (n, dim) float32."""
        if not len(table):
            return np.empty((0, self.dim), np.float32)
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float32).reshape(-1, self.dim)

    def _schema(self) -> Any:
        arrow = self._arrow
        types = {"size": arrow.int64(), "mtime": arrow.int64(), "duration": arrow.float64()}
        columns = [arrow.field(name, types.get(name, arrow.string())) for name in _COLUMNS]
        columns.append(arrow.field("thumbnail", arrow.binary()))
        columns.append(arrow.field("vector", arrow.list_(arrow.float32(), self.dim)))
        return arrow.schema(columns)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _among(ids: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield f"id IN ({', '.join(map(_quote, ids[start : start + _IDS_PER_STATEMENT]))})"
