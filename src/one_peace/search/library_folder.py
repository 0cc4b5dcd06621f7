"""The folder of a library: one writer at a time, the store that its manifest tells of, and how both come and go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from one_peace.data.lock import writer_lock
from one_peace.search.calibration import KeptCalibration
from one_peace.search.engines import find_space, open_store
from one_peace.search.manifest import (
    LibraryError,
    Manifest,
    kept_elsewhere,
    read_manifest,
    remove_manifest,
    write_manifest,
)
from one_peace.search.records import Space
from one_peace.search.store import VectorStore

_LOCK = "writer.lock"
_VECTORS = "vectors"
_CALIBRATION = "calibration.npz"


class LibraryFolder:
    """The folder `path`, for vectors of `space`; `address` is where a library made here keeps them, "" for within.

    `store` is None until somebody has written to the library.

    Raises:
        LibraryError: the library was made by a model with another fingerprint, or is damaged.
        MissingExtraError: it is kept in an engine that is not installed.
    """

    def __init__(self, path: Path, space: Space, address: str = "") -> None:
        self.path = path
        self.space = space
        self.address = address
        self.calibration = KeptCalibration(path / _CALIBRATION)
        manifest = read_manifest(path)
        self.store: VectorStore | None = self._open(manifest) if manifest else None

    def opened(self) -> VectorStore:
        """The store; `LibraryError` if there is none yet."""
        if self.store is None:
            manifest = read_manifest(self.path)  # somebody else may have made it since
            if manifest is None:
                raise LibraryError(f"{self.path} holds no library yet; index a folder first")
            self.store = self._open(manifest)
        return self.store

    @contextmanager
    def writing(self) -> Iterator[VectorStore]:
        """The store, made if it is not there, for one writer at a time; `FolderBusyError` if there is another."""
        self.path.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.path / _LOCK):
            if self.store is None:
                manifest = read_manifest(self.path)  # somebody else may have made it since
                if manifest is None:
                    manifest = Manifest(self.space.model, self.space.fingerprint, self.space.dim, self.address)
                    self._remove_leftovers()
                    self.store = self._open(manifest)
                    write_manifest(self.path, manifest)
                else:
                    self.store = self._open(manifest)
            yield self.store

    def _open(self, manifest: Manifest) -> VectorStore:
        if (manifest.fingerprint, manifest.dim) != (self.space.fingerprint, self.space.dim):
            raise LibraryError(
                f"{self.path} was made with another model, {manifest.model} ({manifest.fingerprint}), than "
                f"{self.space.model} ({self.space.fingerprint}); vectors of two models cannot be compared. "
                "Open it with its own model, or index again: one-peace index --rebuild"
            )
        return open_store(manifest.address or os.fspath(self.path / _VECTORS), self.space)

    def _remove_leftovers(self) -> None:
        """What an interrupted `erase_library` left of another model."""
        found = find_space(os.fspath(self.path / _VECTORS))
        if found is not None and (found.fingerprint, found.dim) != (self.space.fingerprint, self.space.dim):
            shutil.rmtree(self.path / _VECTORS)
            (self.path / _CALIBRATION).unlink(missing_ok=True)


def erase_library(path: str | os.PathLike[str]) -> None:
    """Forgets what the library in the folder `path` holds, so that it can be made anew, with any model.

    Raises:
        FolderBusyError: somebody is writing to it.
        LibraryError: its vectors are kept elsewhere, where others may use them.
    """
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        return
    with writer_lock(folder / _LOCK):
        address = kept_elsewhere(folder)
        if address:
            raise LibraryError(f"{folder} keeps its vectors in {address}; index into another place instead")
        remove_manifest(folder)  # first: what is left without it is removed by the next writer
        shutil.rmtree(folder / _VECTORS, ignore_errors=True)
        (folder / _CALIBRATION).unlink(missing_ok=True)
