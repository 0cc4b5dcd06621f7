"""A library as plain files: Parquet, or NumPy vectors beside a line of JSON per row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.atomic_files import replacing
from one_peace.errors import MissingExtraError
from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.records import COLUMNS, Entry, Space, arrow_columns

SUFFIXES = (".parquet", ".npz")


def export_library(library: Library, out: Path, filters: Filters | None = None) -> int:
    """Writes all rows that pass, with all that is known of them but thumbnails; returns how many.

    `.parquet`: a column for each field of an `Entry` and one named `vector`, fixed-size lists of float32.
    `.npz`: `vectors` (n, dim) float32, `ids` (n,), with `.jsonl` beside it, whose line i has the fields of row i.
    Both name the model and its fingerprint: in the schema's metadata, and as `model` and `fingerprint`.
    A file is written whole or not at all.

    Raises:
        ValueError: another ending.
        MissingExtraError: Parquet without the extra `search`.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"{out}: the ending must be {' or '.join(SUFFIXES)}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write = _write_parquet if out.suffix == ".parquet" else _write_npz
    return write(library, out, library.vectors(filters))


def rows_schema(space: Space) -> Any:
    """The Arrow schema of rows: the fields of an `Entry`, and `vector`.

    Raises:
        MissingExtraError: PyArrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("writing Parquet", "search") from error
    columns = arrow_columns()
    columns.append(pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), space.dim)))
    return pyarrow.schema(columns, metadata={"model": space.model, "fingerprint": space.fingerprint})


def record_batch(entries: Sequence[Entry], vectors: np.ndarray, schema: Any) -> Any:
    """Rows with vectors (n, dim) float32 as an Arrow record batch of `rows_schema`."""
    import pyarrow

    columns = [pyarrow.array([getattr(entry, name) for entry in entries], schema.field(name).type) for name in COLUMNS]
    flat = pyarrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, schema.field("vector").type.list_size))
    return pyarrow.record_batch(columns, schema=schema)


def _write_parquet(library: Library, out: Path, chunks: Iterator[tuple[list[Entry], np.ndarray]]) -> int:
    schema = rows_schema(library.space)
    from pyarrow import parquet

    written = 0
    with replacing(out) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for entries, vectors in chunks:
            writer.write_batch(record_batch(entries, vectors, schema))
            written += len(entries)
    return written


def _write_npz(library: Library, out: Path, chunks: Iterator[tuple[list[Entry], np.ndarray]]) -> int:
    parts, ids = [np.empty((0, library.space.dim), np.float32)], list[str]()
    # the lines get their place first: vectors never lie there without them
    with replacing(out) as partial, replacing(out.with_suffix(".jsonl")) as partial_lines:
        with open(partial_lines, "w", encoding="utf-8") as lines:
            for entries, vectors in chunks:
                for entry in entries:
                    lines.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
                ids += [entry.id for entry in entries]
                parts.append(vectors)
        with open(partial, "wb") as file:
            np.savez(
                file,
                vectors=np.concatenate(parts),
                ids=np.array(ids, dtype=str),
                model=np.array(library.space.model),
                fingerprint=np.array(library.space.fingerprint),
            )
    return len(ids)
