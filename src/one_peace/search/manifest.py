"""What a library's folder holds beside the store: which model made it, and which files it cannot read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from one_peace.errors import OnePeaceError

_MANIFEST = "library.json"
_REJECTED = "rejected.json"
_FORMAT = 1


class LibraryError(OnePeaceError):
    """A library that is not there, is damaged, or does not belong to the model."""


@dataclass(frozen=True)
class Manifest:
    """`model` is the name or path to load it by, `fingerprint` identifies its vector space of width `dim`.

    `engine` is what keeps the vectors: a name of `engines.ENGINES`.
    """

    model: str
    fingerprint: str
    dim: int
    engine: str
    format: int = _FORMAT


@dataclass(frozen=True)
class Rejected:
    """A file that cannot be used, as it was when that was found out."""

    size: int
    mtime: int
    problem: str


def locate_library(path: Path) -> Path:
    """The library that `path` is, or that lies in it as `.one-peace`.

    Raises:
        LibraryError: neither is there.
    """
    for folder in (path, path / ".one-peace"):
        if (folder / _MANIFEST).is_file():
            return folder
    raise LibraryError(f"{path} holds no library; make one with: one-peace index {path}")


def read_manifest(folder: Path) -> Manifest | None:
    """None if there is no library in `folder`.

    Raises:
        LibraryError: it is damaged or of a later version of this package.
    """
    try:
        fields = json.loads((folder / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LibraryError(f"{folder / _MANIFEST} is damaged ({error}); remove it, index again") from error
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise LibraryError(f"{folder} was made by another version of one-peace; update, or remove it and index again")
    return Manifest(**fields)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    _write(folder / _MANIFEST, asdict(manifest))


def read_rejected(folder: Path) -> dict[str, Rejected]:
    """By absolute path. A damaged list is an empty one: its files are tried again, that is all."""
    try:
        rows = json.loads((folder / _REJECTED).read_bytes())
        return {path: Rejected(**row) for path, row in rows.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def write_rejected(folder: Path, rejected: dict[str, Rejected]) -> None:
    _write(folder / _REJECTED, {path: asdict(row) for path, row in rejected.items()})


def _write(path: Path, contents: object) -> None:
    """All or nothing: a reader or a crash never sees half a file."""
    partial = path.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(contents, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
