"""From an address to the store there."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from one_peace.search.records import Space
from one_peace.search.stores import lance, milvus, sqlite
from one_peace.search.stores.base import StoreError, VectorStore

_OBJECT_STORES = ("s3://", "gs://", "az://")
_ROWS_PER_MOVE = 1000


def open_store(address: str | os.PathLike[str], space: Space) -> VectorStore:
    """The store at `address`, made if there is none.

    | address                             | engine                                                        |
    |-------------------------------------|---------------------------------------------------------------|
    | a folder                            | what is there; else LanceDB, or SQLite where that is missing  |
    | `s3://`, `gs://`, `az://`           | LanceDB on an object store; several machines may write        |
    | `milvus://host:port/collection`     | Milvus (`milvus+https://` with TLS); several machines may     |

    Raises:
        OtherModelError: the vectors there are of another model than `space`.
        MissingExtraError: the engine is not installed.
        StoreError: it cannot be reached, or the address makes no sense.
    """
    address = _checked(address)
    if milvus.is_address(address):
        return milvus.MilvusStore(address, space)
    if address.startswith(_OBJECT_STORES) or _engine_of(Path(address)) == "lance":
        return lance.LanceStore(address, space)
    return sqlite.SqliteStore(Path(address), space)


def find_space(address: str | os.PathLike[str]) -> Space | None:
    """Whose vectors are at `address`; None if there is no store yet.

    Raises:
        MissingExtraError, StoreError: as `open_store`.
    """
    address = _checked(address)
    if milvus.is_address(address):
        return milvus.space_at(address)
    if address.startswith(_OBJECT_STORES):
        return lance.space_at(address)
    if (Path(address) / "items.lance").is_dir():
        return lance.space_at(address)
    return sqlite.space_at(Path(address))


def move_store(source: VectorStore, target: VectorStore) -> int:
    """Copies all rows of a store into another one, of any engine; their number. Rows of equal ids are replaced.

    Raises:
        StoreError: they hold vectors of two models.
        RuntimeError: rows are missing at the end, since somebody wrote to one of them. `source` is not touched.
    """
    if source.space.fingerprint != target.space.fingerprint or source.space.dim != target.space.dim:
        raise StoreError(f"vectors of {source.space.model} and of {target.space.model} cannot be mixed")
    ids = [entry.id for entry in source.entries()]
    for start in range(0, len(ids), _ROWS_PER_MOVE):
        target.add(list(source.rows(ids[start : start + _ROWS_PER_MOVE]).values()))
    there = {entry.id for entry in target.entries()}
    missing = sum(id_ not in there for id_ in ids)
    if missing:
        raise RuntimeError(f"{missing} of {len(ids)} rows did not arrive; is somebody else writing?")
    target.finish()
    return len(ids)


def _engine_of(folder: Path) -> str:
    if (folder / "items.lance").is_dir():
        return "lance"
    if (folder / "items.sqlite").is_file():
        return "sqlite"
    return "lance" if find_spec("lancedb") else "sqlite"


def _checked(address: str | os.PathLike[str]) -> str:
    text = os.fspath(address)
    if "://" not in text:
        return os.path.abspath(os.path.expanduser(text))
    if not text.startswith(_OBJECT_STORES) and not milvus.is_address(text):
        raise StoreError(f"{text}: expected a folder, s3://, gs://, az:// or milvus://host:port/collection")
    return text
