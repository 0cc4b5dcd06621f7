"""The folder of a library: one writer at a time, the store that its manifest tells of, and how both come and go."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from one_peace.data.lock import writer_lock
from one_peace.search.calibration import KeptCalibration
from one_peace.search.manifest import (
    LibraryError,
    Manifest,
    manifest_mark,
    noted_address,
    read_manifest,
    remove_manifest,
    write_manifest,
)
from one_peace.search.records import Space
from one_peace.search.relocating import relocate
from one_peace.search.stores.base import VectorStore
from one_peace.search.stores.engines import find_space, open_store
from one_peace.search.walk import absolute

_LOCK = "writer.lock"
PATIENCE = 5.0  # seconds to wait for another writer: a service that is sent files writes again and again, and shortly
VECTORS = "vectors"
UPLOADS = "uploads"  # files that the service was sent
_CALIBRATION = "calibration.npz"


def kept_address(library: Path, address: str) -> str:
    """The address of a store as a manifest has it: a folder within the library relative to it, so that they are moved
    together, any other absolute.

    Raises:
        LibraryError: it is the library's own folder, or that of its uploads, where more lies than vectors.
    """
    if not address or "://" in address:
        return address
    place = absolute(address)
    if place == library or place.is_relative_to(library / UPLOADS):
        taken = "the library itself" if place == library else "where files lie that the library was sent"
        raise LibraryError(f"{place} is {taken}; give its vectors a folder of their own: {library / VECTORS}")
    return os.path.relpath(place, library) if place.is_relative_to(library) else os.fspath(place)


def full_address(library: Path, address: str) -> str:
    """Where the store is that a manifest in the folder `library` (absolute) has under this address."""
    return address if "://" in address else os.path.abspath(os.path.join(library, address or VECTORS))


def address_of(library: Path, manifest: Manifest) -> str:
    """Where the store of the library in the folder `library` (absolute) is.

    Manifests once had addresses as they were given, relative to the working directory. Such a one is taken so where
    that has vectors of the same model and the library does not.

    Raises:
        MissingExtraError, StoreError: as `find_space`.
    """
    full = full_address(library, manifest.address)
    if not manifest.address or "://" in full or os.path.isabs(manifest.address) or find_space(full) is not None:
        return full
    there = absolute(manifest.address)
    found = find_space(there)
    fits = found is not None and (found.fingerprint, found.dim) == (manifest.fingerprint, manifest.dim)
    return os.fspath(there) if fits else full


def is_within(library: Path, address: str) -> bool:
    """Whether that store is a folder below the library's own, which nobody else uses."""
    full = full_address(library, address)
    return "://" not in full and library in Path(full).parents


class LibraryFolder:
    """The folder `path`, for vectors of `space`; `address` is where a library made here keeps them, "" for within.

    Another process may make the library, erase it, or make it anew with another model at any time. So whoever wants
    the store asks for it each time.

    Raises:
        LibraryError: the library was made by a model with another fingerprint, or is damaged.
        MissingExtraError: it is kept in an engine that is not installed.
    """

    def __init__(self, path: Path, space: Space, address: str = "") -> None:
        self.path = path
        self.space = space
        self.address = kept_address(path, address)
        self.calibration = KeptCalibration(path / _CALIBRATION)
        self._opened: tuple[tuple[int, int], VectorStore] | None = None  # with the mark of its manifest
        self._opening = threading.Lock()
        _ = self.store  # what is wrong with it is said at once

    @property
    def store(self) -> VectorStore | None:
        """The store that the manifest tells of now; None if nobody has written to the library.

        Raises:
            LibraryError: it is another model's by now, or damaged.
        """
        with self._opening:
            mark = manifest_mark(self.path)
            if self._opened is None or self._opened[0] != mark:
                manifest = read_manifest(self.path)
                self._opened = None if mark is None or manifest is None else (mark, self._open(manifest))
            return None if self._opened is None else self._opened[1]

    def opened(self) -> VectorStore:
        """The store; `LibraryError` if there is none yet."""
        store = self.store
        if store is None:
            raise LibraryError(f"{self.path} holds no library yet; index a folder first")
        return store

    @contextmanager
    def writing(self) -> Iterator[VectorStore]:
        """The store, made if it is not there, for one writer at a time; `FolderBusyError` if there is another that does
        not end within `PATIENCE`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.path / _LOCK, PATIENCE):
            if self.store is None:
                self._make()
            self._follow()
            yield self.opened()

    def _make(self) -> None:
        """An empty library. The manifest comes last: where there is one, there are vectors."""
        self._remove_leftovers()
        open_store(full_address(self.path, self.address), self.space)
        write_manifest(self.path, Manifest(self.space.model, self.space.fingerprint, self.space.dim, self.address))

    def _follow(self) -> None:
        """Notes where the library and its vectors lie; one that was moved or copied takes its rows along.

        Not of vectors that are kept elsewhere: others may have the files under the same paths still.
        """
        manifest = read_manifest(self.path)
        if manifest is None:
            return
        address, place = address_of(self.path, manifest), os.fspath(self.path)
        if address == full_address(self.path, manifest.address):
            address = manifest.address
        elif is_within(self.path, address):
            address = kept_address(self.path, address)
        if manifest.place not in ("", place) and is_within(self.path, address):
            relocate(self.opened(), Path(manifest.place).parent, self.path.parent)
        if (manifest.address, manifest.place) != (address, place):
            write_manifest(self.path, replace(manifest, address=address, place=place))

    def _open(self, manifest: Manifest) -> VectorStore:
        if (manifest.fingerprint, manifest.dim) != (self.space.fingerprint, self.space.dim):
            raise LibraryError(
                f"{self.path} was made with another model, {manifest.model} ({manifest.fingerprint}), than "
                f"{self.space.model} ({self.space.fingerprint}); vectors of two models cannot be compared. "
                "Open it with its own model, or index again: one-peace index --rebuild"
            )
        address = address_of(self.path, manifest)
        if find_space(address) is None:
            raise LibraryError(f"{self.path} has lost its vectors in {address}; index again: one-peace index --rebuild")
        return open_store(address, self.space)

    def _remove_leftovers(self) -> None:
        """What an interrupted `erase_library` left of another model."""
        vectors = full_address(self.path, self.address)
        found = find_space(vectors) if is_within(self.path, self.address) else None
        if found is not None and (found.fingerprint, found.dim) != (self.space.fingerprint, self.space.dim):
            shutil.rmtree(vectors)
            (self.path / _CALIBRATION).unlink(missing_ok=True)


def erase_library(path: str | os.PathLike[str]) -> None:
    """Forgets what the library in the folder `path` holds, so that it can be made anew, with any model.

    Raises:
        FolderBusyError: somebody is writing to it.
        LibraryError: its vectors are kept elsewhere, where others may use them.
    """
    folder = absolute(path)
    if not folder.is_dir():
        return
    with writer_lock(folder / _LOCK, PATIENCE):
        address = noted_address(folder)
        vectors = full_address(folder, address)
        if not is_within(folder, address):
            raise LibraryError(f"{folder} keeps its vectors in {vectors}; index into another place instead")
        remove_manifest(folder)  # first: what is left without it is removed by the next writer
        shutil.rmtree(vectors, ignore_errors=True)
        (folder / _CALIBRATION).unlink(missing_ok=True)
