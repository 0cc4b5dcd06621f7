"""How shards of embeddings are written: Parquet files, or one Lance table. Whole or not at all, each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from one_peace.atomic_files import replacing
from one_peace.data.bulk_work import Notes
from one_peace.search.exporting import record_batch, rows_schema
from one_peace.search.records import Record, Space


@dataclass(frozen=True)
class Totals:
    """Rows in all shards, and files that could not be read."""

    rows: int
    problems: int


class ShardWriter(Protocol):
    """Writes the shards of a folder; a shard that `write` returned for is there, whatever happens next."""

    def __init__(self, out: Path, space: Space, shards: int) -> None: ...

    def done(self) -> set[int]:
        """Numbers of the shards that are there."""
        ...

    def write(self, number: int, records: Sequence[Record], problems: dict[str, str]) -> None:
        """Writes a shard; one that is there already is replaced."""
        ...

    def totals(self) -> Totals:
        """Of what is there."""
        ...


class _Marked:
    """Notes of each shard that it is there, with its numbers and problems."""

    def __init__(self, out: Path, space: Space, shards: int) -> None:
        self.out = out
        self.space = space
        self.notes = Notes(out, shards)

    def done(self) -> set[int]:
        return self.notes.done()

    def totals(self) -> Totals:
        notes = list(self.notes.read())
        return Totals(sum(note["rows"] for note in notes), sum(len(note["problems"]) for note in notes))

    def _mark(self, number: int, rows: int, problems: dict[str, str]) -> None:
        self.notes.write(number, {"rows": rows, "problems": problems})


class ParquetShards(_Marked):
    """`shard-000012.parquet`, with columns as `rows_schema` has them."""

    def done(self) -> set[int]:
        return {number for number in super().done() if self._file(number).is_file()}

    def write(self, number: int, records: Sequence[Record], problems: dict[str, str]) -> None:
        from pyarrow import Table, parquet

        schema = rows_schema(self.space)
        entries = [record.entry for record in records]
        vectors = np.array([record.vector for record in records], np.float32).reshape(-1, self.space.dim)
        with replacing(self._file(number)) as partial:
            parquet.write_table(Table.from_batches([record_batch(entries, vectors, schema)]), partial)
        # A run that is killed before the note does the shard again, and replaces the file by its like.
        self._mark(number, len(records), problems)

    def _file(self, number: int) -> Path:
        return self.out / f"shard-{number:06}.parquet"


class LanceShards(_Marked):
    """One LanceDB table in `out`, that a library could use. Rows are told apart by id, so that a shard that is done
    again after a kill adds none."""

    def write(self, number: int, records: Sequence[Record], problems: dict[str, str]) -> None:
        from one_peace.search.stores.lance import LanceStore

        LanceStore(os.fspath(self.out), self.space).add(records)
        self._mark(number, len(records), problems)


FORMATS: dict[str, type[ParquetShards] | type[LanceShards]] = {"parquet": ParquetShards, "lance": LanceShards}
