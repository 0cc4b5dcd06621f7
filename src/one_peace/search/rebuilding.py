"""A library made anew, with another model say. What only the library has, the files that it was sent, stays in it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from one_peace.search.encoding import load_encoder
from one_peace.search.file_kinds import kinds_for
from one_peace.search.filters import Condition
from one_peace.search.indexing import IndexReport
from one_peace.search.library import DEFAULT_MODEL, Library
from one_peace.search.library_folder import address_of, erase_library, full_address, kept_address
from one_peace.search.manifest import LibraryError, Manifest, noted_address, read_manifest
from one_peace.search.records import Entry, Space
from one_peace.search.stores.base import StoreError
from one_peace.search.stores.engines import find_space, open_store
from one_peace.search.walk import absolute, walk

log = logging.getLogger("one_peace.search")


def begin_anew(
    path: str | os.PathLike[str], model: str | None = None, device: str = "cpu", store: str | None = None
) -> tuple[Library, IndexReport]:
    """Erases the library in the folder `path` and makes one that knows only the files which lie in that folder.

    Those are the ones that were uploaded: no folder that is indexed again has them. Their captions and tags stay, and
    what became of them is in the report. Arguments are those of `Library`; nothing is erased before the model is
    loaded.

    Raises:
        FolderBusyError: somebody is writing to it.
        LibraryError, StoreError: its vectors are kept elsewhere, where others may use them; `store` is of no use.
    """
    place = absolute(path)
    try:
        manifest = read_manifest(place)
    except LibraryError:  # damaged, or of another version: a reason to begin anew
        manifest = None
    name = model or (manifest.model if manifest else DEFAULT_MODEL)
    encoder = load_encoder(name, device)
    if store is not None:
        find_space(full_address(place, kept_address(place, store)))
    vectors = Path(full_address(place, noted_address(place)))
    found = walk(place, kinds_for(encoder.modalities), vectors).found if place.is_dir() else {}
    described = _described(place, manifest) if manifest and found else {}
    erase_library(place)
    library = Library(place, encoder, name, store=store)
    files = [(path, *described.get(path, ("", ()))) for path in found]
    return library, library.add(files) if files else IndexReport()


def _described(place: Path, manifest: Manifest) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Captions and tags of the files in the folder of a library, by path."""
    inside = Condition("path", "prefix", os.path.join(place, ""))
    space = Space(manifest.model, manifest.fingerprint, manifest.dim)
    rows: list[Entry] = []
    try:
        vectors = address_of(place, manifest)
        if find_space(vectors) is not None:
            rows = open_store(vectors, space).entries((inside, Condition("part", "in", (0,))))
    except StoreError as error:
        log.warning("captions and tags of uploaded files are lost: %s", error)
    return {row.path: (row.caption, row.tags) for row in rows}
