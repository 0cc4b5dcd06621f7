"""Which storage engine a library has: LanceDB where it is installed, one SQLite file elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from one_peace.search.lance import LanceStore
from one_peace.search.sqlite import SqliteStore
from one_peace.search.store import VectorStore

ENGINES: dict[str, type[LanceStore] | type[SqliteStore]] = {"lance": LanceStore, "sqlite": SqliteStore}


def engine_here() -> str:
    """The engine for a new library."""
    return "lance" if find_spec("lancedb") else "sqlite"


def open_store(engine: str, folder: Path, dim: int) -> VectorStore:
    """The store of vectors (dim,) in `folder`.

    Raises:
        ValueError: vectors of another length are there.
        MissingExtraError: the library is kept in LanceDB, which is not installed.
    """
    return ENGINES[engine](folder, dim)
