"""What a library's folder holds beside the store: which model made it, and which files it cannot read."""

from __future__ import annotations

import json
import logging
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from one_peace.atomic_files import replacing
from one_peace.errors import OnePeaceError

_MANIFEST = "library.json"
_REJECTED = "rejected.json"
_FORMAT = 2

log = logging.getLogger("one_peace.search")


class LibraryError(OnePeaceError):
    """A library that is not there, is damaged, or does not belong to the model."""


class UnknownItemError(LibraryError):
    """An id that no item of the library has."""


@dataclass(frozen=True)
class Manifest:
    """`model` is the name or path to load it by, `fingerprint` identifies its vector space of width `dim`.

    `address` is where its vectors are kept (`stores/engines.py`), "" for the usual folder beside the manifest, a
    relative one for another folder there. `place` is where the library lay when it was last written to, by which it is
    seen that it was moved since.
    """

    model: str
    fingerprint: str
    dim: int
    address: str = ""
    place: str = ""
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
        if is_library(folder):
            return folder
    if not path.is_dir():
        raise LibraryError(f"{path} is no folder; a library lies in one, or in the folder that was indexed")
    raise LibraryError(f"{path} holds no library; make one with: one-peace index {shlex.quote(str(path))}")


def is_library(folder: Path) -> bool:
    """Whether a library lies in `folder` itself."""
    return (folder / _MANIFEST).is_file()


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
        raise _damaged(folder, error) from error
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise LibraryError(
            f"{folder} was made by another version of one-peace; update, or index again: one-peace index --rebuild"
        )
    try:
        return Manifest(**fields)
    except TypeError as error:
        raise _damaged(folder, error) from error


def manifest_mark(folder: Path) -> tuple[int, int] | None:
    """Differs whenever the manifest was written anew; None if there is none."""
    try:
        status = (folder / _MANIFEST).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of the library in `folder`, in one step."""
    _write(folder / _MANIFEST, asdict(manifest))


def lasting_name(model: str) -> str:
    """The name of a model as a manifest has it: a path on this machine absolute, for it is loaded from anywhere."""
    path = os.path.expanduser(model)
    return os.path.abspath(path) if model and os.path.exists(path) else model


def noted_address(folder: Path) -> str:
    """The `address` in the manifest of a library, whatever version made it; "" if there is none."""
    try:
        return str(json.loads((folder / _MANIFEST).read_bytes()).get("address", ""))
    except (FileNotFoundError, ValueError, AttributeError):
        return ""


def remove_manifest(folder: Path) -> None:
    """Makes of a library a mere folder; the list of files that cannot be read goes too."""
    for name in (_MANIFEST, _REJECTED):
        (folder / name).unlink(missing_ok=True)


def read_rejected(folder: Path) -> dict[str, Rejected]:
    """By absolute path. A damaged list is an empty one: its files are tried again, that is all."""
    try:
        rows = json.loads((folder / _REJECTED).read_bytes())
        return {path: Rejected(**row) for path, row in rows.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def write_rejected(folder: Path, rejected: dict[str, Rejected]) -> None:
    """By absolute path. Where it cannot be written the work goes on: as with a damaged list, files are tried again."""
    try:
        _write(folder / _REJECTED, {path: asdict(row) for path, row in rejected.items()})
    except OSError as error:
        log.warning("%s: the list of unreadable files could not be written: %s", folder, error)


def _write(path: Path, contents: object) -> None:
    """All or nothing: a reader or a crash never sees half a file."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(contents, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _damaged(folder: Path, error: Exception) -> LibraryError:
    return LibraryError(f"{folder / _MANIFEST} is damaged ({error}); index again: one-peace index --rebuild")
