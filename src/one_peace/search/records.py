"""What a library knows of a file, and what a search finds."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np


@dataclass(frozen=True, slots=True)
class Entry:
    """A row without its embedding: an item of a library, which is a file, or a part of one.

    Stores make their columns of these fields, and filters take any of them; so a field more is a line here. Types are
    `str`, `int`, `float | None` and `tuple[str, ...]`.

    `id` and `item` stay the same when the file is renamed or changed; a picture is one row, a video has one for each of
    some frames and one for its sound. `modality` is what the item is, `branch` what of the model embedded this part
    of it. `path` is absolute. `digest` is the SHA-256 of the contents (hex), `size` is in bytes, `mtime` and `added`
    are in nanoseconds since 1970, `duration` (of sounds and videos) and `start` (where in them the part begins) in
    seconds. `caption` is what to show beside the file: the text next to a picture or sound, the beginning of a text;
    `label` what to show beside the part. `tags` have no order.
    """

    id: str
    path: str
    modality: str
    digest: str
    size: int
    mtime: int
    caption: str = ""
    duration: float | None = None
    tags: tuple[str, ...] = ()
    added: int = 0
    item: str = ""
    branch: str = ""
    part: int = 0
    parts: int = 1
    label: str = ""
    start: float | None = None


COLUMNS: dict[str, Any] = get_type_hints(Entry)
"""Type of each field of an `Entry`, in order."""

_LAST_MOMENT = 2**63 - 1
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def arrow_columns() -> list[Any]:
    """The fields of an `Entry` as those of an Arrow schema. `ImportError` without PyArrow."""
    import pyarrow

    types: dict[Any, Any] = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float | None: pyarrow.float64(),
        tuple[str, ...]: pyarrow.list_(pyarrow.string()),
    }
    return [pyarrow.field(name, types[kind]) for name, kind in COLUMNS.items()]


def composed(text: str) -> str:
    """Text with its accents in one character each (NFC), as libraries keep captions and tags: file names from a Mac
    have them apart, keyboards do not."""
    return unicodedata.normalize("NFC", text)


def stored_moment(nanoseconds: int) -> int:
    """A time in nanoseconds since 1970 as a column of 64 bits holds it: nothing is before 1677 or after 2262."""
    return max(-_LAST_MOMENT, min(nanoseconds, _LAST_MOMENT))


def moment_of(time: datetime) -> int:
    """A time with its zone as a stored moment."""
    return stored_moment((time - _EPOCH) // _MICROSECOND * 1000)


@dataclass(frozen=True, eq=False)
class Record:
    """A row of a store: an entry, its embedding (dim,) float32 of unit length, and a small JPEG to show."""

    entry: Entry
    vector: np.ndarray
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Hit:
    """A row that a search found: its id, and the inner product of the query and its vector."""

    id: str
    score: float


@dataclass(frozen=True)
class Space:
    """Whose vectors a store holds: those of one model, named `model`, told from all others by `fingerprint`."""

    model: str
    fingerprint: str
    dim: int


@dataclass(frozen=True)
class Item:
    """A file of a library: what its rows share, and how many of them it has. Fields as in `Entry`."""

    id: str
    path: Path
    modality: str
    caption: str
    tags: tuple[str, ...]
    duration: float | None
    size: int
    mtime: int
    added: int
    digest: str
    parts: int

    @classmethod
    def of(cls, row: Entry) -> Item:
        """The item that a row is a part of; its caption is that of the whole in the first row only."""
        return cls(
            id=row.item,
            path=Path(row.path),
            modality=row.modality,
            caption=row.caption,
            tags=row.tags,
            duration=row.duration,
            size=row.size,
            mtime=row.mtime,
            added=row.added,
            digest=row.digest,
            parts=row.parts,
        )


@dataclass(frozen=True)
class Result:
    """A ranked answer of a library: an item, by the part of it that fits best.

    `rank` counts from 1. `score` is the cosine similarity of the part to the query, `why` that to each part of the
    query in turn, and `standing` by how many standard deviations the score is above what rows of the same branch
    score: answers of several modalities are ordered by it, unless that was declined. `label` and `start` (seconds)
    say which part it is, if not the whole. Other fields as in `Entry`.
    """

    rank: int
    score: float
    path: Path
    modality: str
    caption: str = ""
    duration: float | None = None
    thumbnail: bytes | None = None
    id: str = ""
    tags: tuple[str, ...] = ()
    size: int = 0
    mtime: int = 0
    standing: float = math.nan
    why: tuple[float, ...] = ()
    label: str = ""
    start: float | None = None
