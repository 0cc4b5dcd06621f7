"""What a library knows of a file, and what a search finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Entry:
    """A file of a library without its embedding.

    `id` stays the same when the file is renamed or changed. `path` is absolute. `digest` is the SHA-256 of
    the contents (hex), `size` is in bytes, `mtime` in nanoseconds. `caption` is what to show beside the file:
    the text next to a picture or sound, the beginning of a text. `duration` is in seconds, of sounds alone.
    """

    id: str
    path: str
    modality: str
    digest: str
    size: int
    mtime: int
    caption: str = ""
    duration: float | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """A row of a store: an entry, its embedding (dim,) float32 of unit length, and a small JPEG to show."""

    entry: Entry
    vector: np.ndarray
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Hit:
    """A row that a search found: its id, and its cosine similarity to the query."""

    id: str
    score: float


@dataclass(frozen=True)
class Result:
    """A ranked answer of a library. `rank` counts from 1, `score` is the cosine similarity to the query."""

    rank: int
    score: float
    path: Path
    modality: str
    caption: str = ""
    duration: float | None = None
    thumbnail: bytes | None = None
