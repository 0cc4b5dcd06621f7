"""Where uploaded files are kept: beside the library, under the hash of their contents."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from one_peace.errors import InputError
from one_peace.media.signatures import file_type
from one_peace.search.file_kinds import KINDS, Kind, kind_of
from one_peace.search.library_folder import UPLOADS
from one_peace.search.reading import digest_of
from one_peace.server.sniffing import refuse_disguise

_PART = ".part"
_LONGEST_NAME = 80


class Uploads:
    """Files that clients sent. A file lies in a folder named by its hash, under a harmless form of its own name.

    Whoever has a file kept holds it until it says by `release` what became of it. Equal files that come at the same
    time are one: it stays if any of them was indexed.
    """

    def __init__(self, library: Path, kinds: dict[str, Kind]) -> None:
        self.folder = library / UPLOADS
        self._kinds = kinds
        self._lock = threading.Lock()
        self._held: Counter[Path] = Counter()
        self._fresh: set[Path] = set()  # new, and nobody has indexed them yet

    def prepare(self) -> None:
        """Makes the folder, and removes what a process that was killed left in it. Before the first file comes.

        Raises:
            OSError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"{self.folder} cannot be made ({error.strerror}); --read-only serves a library as it is"
            raise OSError(error.errno, problem) from error
        for left in self.folder.glob(f"*{_PART}"):  # nobody was told of them
            left.unlink(missing_ok=True)

    def keep(self, stream: BinaryIO, name: str) -> tuple[Path, str]:
        """Copies a file to where it stays, synced to disk -> its path, its kind.

        The ending of the name fits the contents. Equal contents are kept once.

        Raises:
            InputError: empty, of a type that is not indexed, or two types in one.
            OSError: the disk is full or failing; nothing is left behind.
        """
        handle, part = tempfile.mkstemp(suffix=_PART, dir=self.folder)
        path = Path(part)
        try:
            with os.fdopen(handle, "wb") as file:
                digest = _copy(stream, file)
                file.flush()
                os.fsync(file.fileno())
            kind, ending = self._sort(path, name)
            place = self.folder / digest[:2] / digest
            with self._lock:
                place.mkdir(parents=True, exist_ok=True)
                # not whatever lies there: somebody may have put a caption beside it
                files = (file for file in place.iterdir() if file.is_file())
                kept = next((file for file in files if digest_of(os.fspath(file)) == digest), None)
                if kept is None:
                    kept = place / (harmless_stem(name, ending) + ending)
                    os.replace(path, kept)
                    self._fresh.add(kept)
                self._held[kept] += 1
            for folder in (place, place.parent, self.folder):
                _sync_folder(folder)
            return kept, kind
        finally:
            path.unlink(missing_ok=True)

    def _sort(self, path: Path, name: str) -> tuple[str, str]:
        """The kind of a file, by its contents, and an ending for its name. Raises `InputError` if it has none."""
        with open(path, "rb") as file:
            head = file.read(4096)
        if not head:
            raise InputError(name, "is empty")
        refuse_disguise(path)
        own = self._ending(name)
        named = kind_of(Path(f"x{own}"), self._kinds)
        found = file_type(head)
        known = None if found is None else kind_of(Path(f"x{found.ending}"), self._kinds)
        if named is not None and named not in KINDS:  # a registered modality knows its own files
            carrier = kind_of(Path(f"x{Path(own).suffix or own}"), self._kinds)  # x.depth.png is to be a PNG
            if found is None or known in (None, "text", carrier):
                return named, own
        if found is None and named == "text":
            raise InputError(name, "is not UTF-8 text")
        if found is None or known is None:
            raise InputError(name, "is of a type that this library does not take in")
        if named == known:
            return known, own
        if named is not None and not {named, known} <= {"audio", "video"}:  # the same containers hold either
            raise InputError(name, f"is named like {named} and holds {known}")
        return known, found.ending

    def _ending(self, name: str) -> str:
        """The ending that says of what kind a file is: the last one, or the last two where a kind has both."""
        double = "".join(Path(name).suffixes[-2:]).lower()
        endings = (ending for kind in self._kinds.values() for ending in kind.endings.split())
        return double if double in endings else Path(name).suffix.lower()

    def release(self, path: Path, indexed: bool) -> None:
        """Lets go of a file; one that nobody has indexed and nobody holds any more is removed."""
        with self._lock:
            self._held[path] -= 1
            if indexed:
                self._fresh.discard(path)
            if not self._held[path]:
                del self._held[path]
                if path in self._fresh:
                    self._fresh.discard(path)
                    shutil.rmtree(path.parent, ignore_errors=True)

    def is_fresh(self, path: Path) -> bool:
        """Whether a file that is held is new: nobody has indexed it yet."""
        with self._lock:
            return path in self._fresh

    def drop(self, path: Path) -> None:
        """Removes a file whose item is gone. Files of other folders, and those that somebody holds, are left alone."""
        with self._lock:
            if self.holds(path) and path not in self._held:
                shutil.rmtree(path.parent, ignore_errors=True)

    def holds(self, path: Path) -> bool:
        """Whether a path is that of an uploaded file."""
        return path.parent.parent.parent == self.folder


def harmless_stem(name: str, ending: str) -> str:
    """A file's name without folders, control characters, leading dots and `ending`, or whichever it has."""
    bare = re.split(r"[/\\]", name)[-1]
    stem = bare[: -len(ending)] if bare.lower().endswith(ending) else Path(bare).stem
    kept = re.sub(r"[^\w .()+-]+", "_", stem).strip(" .")
    while len(kept.encode()) > _LONGEST_NAME:
        kept = kept[:-1]
    return kept or "upload"


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := source.read(1 << 20):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
