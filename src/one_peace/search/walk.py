"""The files of a folder that belong in a library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from one_peace.search.kinds import caption_beside, kind_of


@dataclass(frozen=True)
class Found:
    """A file to be in the library: absolute path, modality, size in bytes, time of change in ns, caption.

    The caption is "" where only the contents can tell (texts).
    """

    path: str
    modality: str
    size: int
    mtime: int
    caption: str


@dataclass
class Walk:
    """Files to be in the library, by path, and in `problems` what could not be looked at, by path."""

    found: dict[str, Found] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def could_hold(self, path: str) -> bool:
        """Whether a file that was not found may be there all the same, in a place that could not be read."""
        return any(path == place or path.startswith(place + os.sep) for place in self.problems)

    def look_at(self, path: Path, modality: str, caption: str) -> None:
        """Notes the file at the absolute path `path`, or what is wrong with it."""
        name = os.fspath(path)
        try:
            os.fsencode(name).decode("utf-8")  # stores hold text, file names may be any bytes
            status = path.stat()
        except UnicodeDecodeError:
            self.problems[name] = "the name is not UTF-8; rename it"
        except OSError as error:
            self.problems[name] = reason(error)
        else:
            self.found[name] = Found(name, modality, status.st_size, status.st_mtime_ns, caption)


def walk(folder: Path, modalities: frozenset[str], skip: Path) -> Walk:
    """Pictures, sounds and texts below `folder` (absolute), without hidden ones and those in `skip`.

    Links to folders are followed; every folder is visited once, by its own name if it has one below `folder`.
    A .txt file beside a picture or sound of the same name is its caption and not a text of its own.
    """
    result = Walk()
    for paths in _folders(folder, skip, result.problems):
        captioned = {path.with_suffix("") for path in paths if kind_of(path) not in (None, "text")}
        for path in paths:
            modality = kind_of(path)
            if modality is None or modality not in modalities:
                continue
            if modality != "text":
                result.look_at(path, modality, caption_beside(path))
            elif path.suffix != ".txt" or path.with_suffix("") not in captioned:
                result.look_at(path, modality, "")
    return result


def look_at_all(files: Iterable[tuple[str | os.PathLike[str], str]], modalities: frozenset[str]) -> Walk:
    """Single files as (path, caption); an empty caption is replaced by what stands beside the file."""
    result = Walk()
    for given, caption in files:
        path = Path(given).expanduser().absolute()
        modality = kind_of(path)
        if modality is None or modality not in modalities:
            result.problems[os.fspath(path)] = "is not a kind of file that this model and library take"
        elif modality == "text":
            result.look_at(path, modality, caption)
        else:
            result.look_at(path, modality, caption or caption_beside(path))
    return result


def reason(error: OSError) -> str:
    """In words, without the path."""
    return error.strerror or str(error)


def _folders(top: Path, skip: Path, problems: dict[str, str]) -> Iterator[list[Path]]:
    """Files of each folder, ordered by name. Links come last: a folder is met under its own name first."""
    visited = {_identity(skip)} if skip.exists() else set()
    waiting, links = [top], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            if (identity := _identity(folder)) in visited:
                continue
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            problems[os.fspath(folder)] = reason(error)
            continue
        visited.add(identity)
        files, below = list[Path](), list[Path]()
        for entry in ordered:
            if entry.name.startswith("."):
                continue
            if not os.path.isdir(entry.path):  # unlike entry.is_dir, false for a link to itself
                files.append(Path(entry.path))
            elif entry.is_symlink():
                links.append(Path(entry.path))
            else:
                below.append(Path(entry.path))
        waiting += reversed(below)
        yield files


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
