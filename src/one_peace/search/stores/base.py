"""The interface that a storage engine implements; `tests/search/test_store_conformance.py` holds every one to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Protocol

import numpy as np

from one_peace.errors import OnePeaceError
from one_peace.search.filters import Filter
from one_peace.search.records import COLUMNS, Entry, Hit, Record, Space

_UNIT = 1e-3  # how far from 1 the length of a vector may be; what half precision leaves of a unit vector is within


class StoreError(OnePeaceError):
    """The engine cannot be reached, or refuses; or what is there is not a store of this version."""


class StoreFullError(StoreError):
    """There is no room where the store is. Make some and repeat the call."""


class OtherModelError(StoreError):
    """The store holds vectors of another model; theirs and ours cannot be compared."""


def failure(address: object, error: Exception) -> StoreError:
    """What an engine's error means to users. Engines say in words only that a disk is full."""
    words = str(error)
    full = any(sign in words for sign in ("No space left", "disk is full", "Disk quota exceeded"))
    return (StoreFullError if full else StoreError)(f"{address}: {words}")


class VectorStore(Protocol):
    """Rows of (entry, vector, thumbnail) on disk or on a server, searched by inner product.

    A call that returned is durable, whatever happens to this process next, and seen by the next call of every other
    process. The embedded stores write all rows of a call or none. Milvus is looser, as distributed engines are: a call
    that fails may have written a part, and searches of other processes see what was written some tenths of a second
    later.
    All methods may be called from several threads. `space` says whose vectors it holds.
    """

    space: Space

    def add(self, records: Sequence[Record]) -> None:
        """Adds rows; a row whose id is there already is replaced. Of equal ids in `records` the last one counts.

        Raises:
            ValueError: a vector of the wrong length (also: not of unit length), with NaN or infinite values, or text
                that is not Unicode. Nothing is written.
        """
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Removes rows; ids that are not there are ignored."""
        ...

    def count(self) -> int:
        """Number of rows."""
        ...

    def entries(self, where: Filter = ()) -> list[Entry]:
        """All rows that pass, without vectors and thumbnails, in any order."""
        ...

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        """Whole rows by id; ids that are not there are left out."""
        ...

    def vectors(self, where: Filter = ()) -> Iterator[tuple[list[Entry], np.ndarray]]:
        """All rows that pass, some thousands at a time: entries, and their vectors (n, dim) float32. In any order."""
        ...

    def search(self, vectors: np.ndarray, k: int, where: Filter = ()) -> list[list[Hit]]:
        """The k best rows that pass, for each query of (m, dim) or (dim,); best first, equal scores by id.

        Queries point anywhere and have any length but zero (a sound minus a text is one); scores grow with it.

        Raises:
            ValueError: k < 1, queries of another width, of length zero, or with NaN or infinite values.
        """
        ...

    def finish(self) -> None:
        """Called after many writes: the time to compact and to build indexes, in the background."""
        ...

    def settle(self) -> None:
        """Waits for what `finish` began.

        Raises:
            StoreError: it failed. Nothing is lost by that: searches stay right, and slower.
        """
        ...

    def close(self) -> None:
        """As `settle`, and frees what the store holds in memory. It stays usable."""
        ...


def check_records(records: Sequence[Record], dim: int) -> list[Record]:
    """The records to be written: of equal ids the last one.

    Raises:
        ValueError: as `VectorStore.add`.
    """
    for record in records:
        path, vector = record.entry.path, np.asarray(record.vector)
        if vector.shape != (dim,) or not np.isfinite(vector).all():
            raise ValueError(f"{path!r}: expected a vector of {dim} finite numbers, got shape {vector.shape}")
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if abs(length - 1) > _UNIT:
            raise ValueError(f"{path!r}: expected a vector of unit length, got {length:.4g}; divide it by that")
        _check_text(record.entry)
    return list({record.entry.id: record for record in records}.values())


def check_queries(vectors: np.ndarray, k: int, dim: int) -> np.ndarray:
    """Queries as (m, dim) float32.

    Raises:
        ValueError: as `VectorStore.search`.
    """
    queries = np.atleast_2d(np.asarray(vectors, np.float32))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"expected queries of {dim} numbers, got shape {np.shape(vectors)}")
    if not np.isfinite(queries).all():
        raise ValueError("NaN or infinite values in a query")
    if not np.abs(queries).max(axis=1, initial=0.0).all():
        raise ValueError("a query of length zero points nowhere; do its parts cancel each other out?")
    return queries


def space_to_json(space: Space) -> str:
    """How stores note down whose vectors they hold."""
    return json.dumps(asdict(space))


def space_from_json(text: str | bytes | None, address: str) -> Space:
    """Raises `StoreError` if `text` is none of ours."""
    try:
        return Space(**json.loads(text or ""))
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{address} was made by another version of one-peace, or by another program; index again elsewhere"
        ) from error


def check_space(found: Space, wanted: Space, address: str) -> None:
    """Raises `OtherModelError` if the store at `address`, of `found`, cannot hold vectors of `wanted`."""
    if (found.fingerprint, found.dim) != (wanted.fingerprint, wanted.dim):
        raise OtherModelError(
            f"{address} holds vectors of {found.model} ({found.fingerprint}, {found.dim} numbers each), not of "
            f"{wanted.model} ({wanted.fingerprint}, {wanted.dim}); open it with its own model, or index again elsewhere"
        )


def _check_text(entry: Entry) -> None:
    for name, kind in COLUMNS.items():
        value = getattr(entry, name)
        for text in (value,) if kind is str else value if kind == tuple[str, ...] else ():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{entry.path!r}: its {name} {text!r} is not Unicode; rename it") from error
