"""Where in a tar file what is, so that any of it can be read without the rest."""

from __future__ import annotations

import errno
import itertools
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from one_peace.data.source import UnusablePair
from one_peace.media.sources import MAX_BYTES

TEXTS = ("txt", "json", "cls")
ENTRY = np.dtype([("text", "<i8"), ("text_size", "<i8"), ("form", "u1"), ("media", "<i8"), ("media_size", "<i8")])
_BLOCK = 512  # bytes of a tar header
_LARGEST = 1 << 62  # bytes of a member: what counts them has 64 bits
# What the standard library raises on a damaged header, the last three by numbers and chains that no file can have.
_DAMAGED = (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError, RecursionError)


def write_pairs(descriptor: int, endings: Sequence[str], target: Path) -> None:
    """The pairs of a shard as a table. Of a shard that breaks off or is damaged, those before.

    Raises:
        tarfile.TarError: not a tar file, or a compressed one.
    """
    entries = []
    for _, members in itertools.groupby(members_of(descriptor), lambda member: member[0]):
        found: dict[str, tarfile.TarInfo] = {}
        for _, ending, member in members:
            found.setdefault(ending, member)
        form = next((form for form in TEXTS if form in found), None)
        media = next((found[ending] for ending in endings if ending in found), None)
        if form is not None and media is not None:
            text = found[form]
            row = (text.offset_data, text.size, TEXTS.index(form), media.offset_data, media.size)
            entries.append(row)
    with open(target, "wb") as file:
        np.save(file, np.array(entries, ENTRY))


def members_of(descriptor: int) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, ending and header of each file of a shard, links and sparse ones left out; the key is its path up to the
    first dot of its name.

    They end where the shard breaks off or is damaged.

    Raises:
        tarfile.TarError: not a tar file, or a compressed one.
        OSError: it cannot be read.
    """
    with os.fdopen(os.dup(descriptor), "rb") as shard:
        try:
            archive = tarfile.open(fileobj=shard, mode="r:")  # noqa: SIM115  # nothing of its own to close
        except _DAMAGED as error:
            raise tarfile.ReadError(str(error)) from error
        while (member := _next(archive)) is not None:
            if member.isfile() and not member.issparse():  # whose contents do not lie there in one piece
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                yield f"{folder}{slash}{stem}", ending.lower(), member


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next header; None at the end, and at one that is damaged."""
    try:
        member = archive.next()
    except _DAMAGED:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # sent to a place before the beginning
            return None
        raise
    archive.members = []  # type: ignore[attr-defined]  # or all headers would stay in memory
    return None if member is None or not 0 <= member.size <= _LARGEST else member


def member_name(descriptor: int, offset: int) -> str:
    """The name in the header before a member's contents."""
    header = os.pread(descriptor, _BLOCK, offset - _BLOCK)
    return header[:100].split(b"\0", 1)[0].decode("utf-8", "replace")


def contents_at(descriptor: int, offset: int, size: int, key: str) -> bytes:
    """The contents of a member of an open shard.

    Raises:
        UnusablePair: named by `key`, where the shard breaks off, or the member takes more than `MAX_BYTES`.
    """
    inside = offset + size <= os.fstat(descriptor).st_size  # no memory for what a damaged header asks for
    if inside and size > MAX_BYTES:  # and beyond 2 GiB one read gives but a part
        raise UnusablePair(
            key,
            f"takes {size / 2**30:.1f} GiB; it would be held in memory, where {MAX_BYTES / 2**30:g} GiB is the most",
            "too large",
        )
    content = os.pread(descriptor, size, offset) if inside else b""
    if not inside or len(content) < size:
        raise UnusablePair(key, "the shard breaks off in the middle of it", "truncated shard")
    return content
