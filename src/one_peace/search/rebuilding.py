"""A library made anew, with another model say. What only the library has, the files that it was sent, stays in it."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import TypeAlias

from one_peace.atomic_files import replacing
from one_peace.search.encoding import load_encoder
from one_peace.search.file_kinds import kinds_for
from one_peace.search.filters import Condition
from one_peace.search.indexing import IndexReport
from one_peace.search.library import DEFAULT_MODEL, Library
from one_peace.search.library_folder import UPLOADS, address_of, erase_library, full_address, kept_address
from one_peace.search.manifest import LibraryError, Manifest, noted_address, read_manifest
from one_peace.search.records import Entry, Space
from one_peace.search.stores.base import StoreError
from one_peace.search.stores.engines import find_space, open_store
from one_peace.search.walk import absolute, walk

_DESCRIBED = "described.json"  # while the library is made anew, and of files that its model does not take

log = logging.getLogger("one_peace.search")

_Described: TypeAlias = dict[str, tuple[str, tuple[str, ...], str]]
"""Captions, tags and ids (may be "") of files in the folder of a library, by their paths in it."""


def begin_anew(
    path: str | os.PathLike[str], model: str | None = None, device: str = "cpu", store: str | None = None
) -> tuple[Library, IndexReport]:
    """Erases the library in the folder `path` and makes one that knows only the files which lie in that folder.

    Those are the ones that were uploaded: no folder that is indexed again has them. Their captions, tags and ids stay,
    and what became of them is in the report, also of a run that was ended before it had taken all in and is repeated.
    Those of files that this model does not take (`left_out` of the report counts them) are kept for one that does.
    Arguments are those of `Library`; nothing is erased before the model is loaded.

    Raises:
        FolderBusyError: somebody is writing to it.
        LibraryError, StoreError: its vectors are kept elsewhere, where others may use them; `store` is of no use; what
            an earlier run has left is damaged.
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
    sent = found or any(path.is_file() for path in (place / UPLOADS).rglob("*"))
    described = _noted(place) | (_described(place, manifest) if manifest and sent else {})
    if described:
        _note(place, described)  # nothing else has them from here until they are taken in again
    erase_library(place)
    library = Library(place, encoder, name, store=store)
    before = {path: described.get(os.path.relpath(path, place), ("", (), "")) for path in found}
    files = [(path, caption, tags) for path, (caption, tags, _) in before.items()]
    ids = {path: id for path, (_, _, id) in before.items() if id}
    report = library.add(files, ids=ids) if files else IndexReport()
    left = {path: said for path, said in described.items() if os.fspath(place / path) not in report.items}
    left = {path: said for path, said in left.items() if (place / path).is_file()}
    if left:
        _note(place, left)
    else:
        (place / _DESCRIBED).unlink(missing_ok=True)
    report.left_out = Counter(Path(path).suffix.lower() for path in left if os.fspath(place / path) not in found)
    return library, report


def _described(place: Path, manifest: Manifest) -> _Described:
    """What is known of the files in the folder of a library, which may have been moved since it was written to."""
    before = Path(manifest.place or place)
    inside = Condition("path", "prefix", os.path.join(before, ""))
    space = Space(manifest.model, manifest.fingerprint, manifest.dim)
    rows: list[Entry] = []
    try:
        vectors = address_of(place, manifest)
        if find_space(vectors) is not None:
            rows = open_store(vectors, space).entries((inside, Condition("part", "in", (0,))))
    except StoreError as error:
        log.warning("captions, tags and ids of uploaded files are lost: %s", error)
    return {os.path.relpath(row.path, before): (row.caption, row.tags, row.item) for row in rows}


def _noted(place: Path) -> _Described:
    """What earlier runs have left. `LibraryError` if it is damaged: nothing else has it."""
    try:
        noted = json.loads((place / _DESCRIBED).read_bytes())
        return {path: (caption, tuple(tags), "".join(id)) for path, (caption, tags, *id) in noted.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        problem = f"{place / _DESCRIBED}, captions and tags of uploaded files, is damaged ({error})"
        raise LibraryError(f"{problem}; repair it, or remove it to go on without them") from error


def _note(place: Path, described: _Described) -> None:
    with replacing(place / _DESCRIBED) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(described, file)
        file.flush()
        os.fsync(file.fileno())
