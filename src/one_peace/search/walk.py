"""The files of a folder that belong in a library."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.media.sources import describe
from one_peace.search.file_kinds import Kind, kind_of
from one_peace.search.records import composed, stored_moment

_CAPTION_LENGTH = 2_000  # characters
_TAGS = "tags="


@dataclass(frozen=True)
class Found:
    """A file to be in the library: absolute path, modality, size in bytes, time of change in ns, caption and tags.

    The caption is "" where only the contents can tell (texts), and the tags are None where nothing beside the file
    speaks of any: a file that is known keeps those that it has.
    """

    path: str
    modality: str
    size: int
    mtime: int
    caption: str
    tags: tuple[str, ...] | None = None


@dataclass
class Walk:
    """Files to be in the library, by path, and in `problems` what could not be looked at, by path. `left_out` counts
    files of other kinds by the endings of their names, in small letters, "" for none."""

    found: dict[str, Found] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def could_hold(self, path: str) -> bool:
        """Whether a file that was not found may be there all the same, in a place that could not be read."""
        return any(os.fspath(place) in self.problems for place in (Path(path), *Path(path).parents))

    def look_at(self, path: Path, modality: str, caption: str, tags: tuple[str, ...] | None = None) -> None:
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
            if stat.S_ISREG(status.st_mode):
                moment = stored_moment(status.st_mtime_ns)
                self.found[name] = Found(name, modality, status.st_size, moment, composed(caption), tags)
            else:  # reading a pipe or a device may never end
                self.problems[name] = "is not a regular file"


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path by which a library knows a place, however it was spelled: without `~`, `.` and `..`; links stay."""
    return Path(os.path.abspath(Path(path).expanduser()))


def walk(folder: Path, kinds: dict[str, Kind], skip: Path) -> Walk:
    """Files of these kinds below `folder` (absolute), without hidden ones and those in `skip`.

    Links to folders are followed; every folder is visited once, by its own name if it has one below `folder`.
    A .txt file beside a picture, sound or video of the same name is its caption and not a text of its own.
    """
    result = Walk()
    for paths in _folders(folder, skip, result.problems):
        captioned = {
            path.with_suffix("") for path in paths if (kind_of(path, kinds) or kind_of(path) or "text") != "text"
        }
        for path in paths:
            kind = kind_of(path, kinds)
            if kind is None:
                if path.suffix != ".txt" or path.with_suffix("") not in captioned:
                    result.left_out[path.suffix.lower()] += 1
                continue
            if kind != "text":
                caption, tags = beside(path)
                result.look_at(path, kind, caption or name_of(path), tags)
            elif path.suffix != ".txt" or path.with_suffix("") not in captioned:
                result.look_at(path, kind, "")
    return result


def look_at_all(files: Iterable[Sequence[Any]], kinds: dict[str, Kind]) -> Walk:
    """Single files as (path, caption) or (path, caption, tags); what is empty is taken from beside the file.

    The caption stays "" where nothing is beside it either.
    """
    result = Walk()
    for one in files:
        if isinstance(one, str):
            raise TypeError(f"a file is (path, caption), not {one!r}")
        given, caption, *tags = one
        path = absolute(given)
        kind = kind_of(path, kinds)
        if kind is None:
            result.problems[os.fspath(path)] = "is not a kind of file that this model and library take"
            continue
        words, own = ("", None) if kind == "text" else beside(path)
        result.look_at(path, kind, caption or words, unique(tags[0]) if tags and tags[0] else own)
    return result


def beside(path: Path) -> tuple[str, tuple[str, ...] | None]:
    """Caption and tags of a file from the .txt beside it; "" and None where that says nothing of them.

    The caption is the first line; tags are on a line of their own: `tags=red, flower`, or `tags=` for none.
    """
    lines: list[str] = []
    text = path.with_suffix(".txt")
    try:
        if text.is_file():  # and no pipe
            with open(text, encoding="utf-8-sig", errors="replace") as file:
                lines = file.read(_CAPTION_LENGTH).splitlines()
    except OSError:
        pass  # a caption that cannot be read is none
    given = [line.removeprefix(_TAGS) for line in lines if line.startswith(_TAGS)]
    first = lines[0] if lines and not lines[0].startswith(_TAGS) else ""
    tags = unique(tag for line in given for tag in line.split(",")) if given else None
    return " ".join(first.split()), tags


def name_of(path: Path) -> str:
    """The caption of a file that has no other."""
    return composed(describe(path.stem))


def unique(tags: Iterable[str]) -> tuple[str, ...]:
    """Each tag once, composed and without space around it, in alphabetical order."""
    return tuple(sorted({composed(" ".join(tag.split())) for tag in tags} - {""}))


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
