"""Files read for an index, a few of them ahead: their hash and their contents, or why they cannot be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from one_peace.errors import InputError, MissingExtraError
from one_peace.models.inputs import run_ahead
from one_peace.search.contents import Content
from one_peace.search.file_kinds import Kind
from one_peace.search.records import Entry, stored_moment
from one_peace.search.walk import Found, reason

_READ_AHEAD = 4  # files decoded at the same time


@dataclass(frozen=True, eq=False)
class Reading:
    """A file after reading: its hash, and its contents, or None where the store has their embeddings."""

    file: Found
    digest: str
    content: Content | None


@dataclass(frozen=True)
class Failure:
    """A file that could not be read; `lasting` if it is to be tried again only when it has changed."""

    file: Found
    problem: str
    lasting: bool


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads files by their kind, for a model of these modalities."""

    kinds: dict[str, Kind]
    modalities: Collection[str]

    def read_all(self, files: Sequence[Found], known: Callable[[str, str], bool]) -> Iterator[Reading | Failure]:
        """In the order of `files`, a few ahead of the caller; `known` says by modality and digest what needs no more
        than its hash."""
        return run_ahead(lambda file: self.read(file, known), files, _READ_AHEAD, _READ_AHEAD)

    def read(self, file: Found, known: Callable[[str, str], bool] | None = None) -> Reading | Failure:
        """One file; without `known` its contents in any case."""
        try:
            digest = digest_of(file.path)
            if known is not None and known(file.modality, digest):
                return Reading(file, digest, None)
            return Reading(file, digest, self.kinds[file.modality].read(Path(file.path), self.modalities))
        except InputError as error:
            return Failure(file, error.problem, lasting=True)
        except OSError as error:  # of the disk or of permissions, which may get better
            return Failure(file, reason(error), lasting=False)
        except MissingExtraError as error:
            return Failure(file, str(error), lasting=False)
        except Exception as error:  # a fault of a decoder, or of a user's modality: one file, not the whole run
            return Failure(file, f"reading it failed ({type(error).__name__}: {error})", lasting=False)


def digest_of(path: str) -> str:
    """SHA-256 of a file's contents, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_still(file: Found | Entry) -> bool:
    """Whether a file has the size and time of change that it was found or indexed with."""
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return (status.st_size, stored_moment(status.st_mtime_ns)) == (file.size, file.mtime)
