"""The type of a file on disk, by its first bytes; and files that are two things at a time."""

from __future__ import annotations

import os
import re
from pathlib import Path

from one_peace.errors import InputError
from one_peace.media.signatures import FileType, file_type

_HEAD = 4096  # bytes that a file is known by
_TAIL = 65_557  # bytes from a zip archive's end in which its directory's end must begin

# What browsers look for when they guess (the MIME sniffing standard), and what servers and shells execute.
_MARKUP = re.compile(
    rb"<(?:!doctype|html|head|body|script|iframe|svg|\?php|\?xml-stylesheet)[\s>/]|%PDF-", re.IGNORECASE
)


def type_of_file(path: Path) -> FileType | None:
    """The type of a file on disk."""
    with open(path, "rb") as file:
        return file_type(file.read(_HEAD))


def refuse_disguise(source: bytes | Path) -> None:
    """Raises `InputError` for media that are also a web page, a script, a PDF or a zip archive.

    Such files do no harm while they are decoded; they are made to be something else to the next program.
    """
    head, tail = _ends(source)
    kind = file_type(head)
    if kind is None or kind.family not in ("image", "audio", "video"):
        return
    found = _MARKUP.search(head[:2048])
    if found is not None:
        said = found.group().decode("ascii", "replace").strip("<> ").strip()
        raise InputError(f"the {kind.mime} file", f"holds {said!r} where its header is: it is two files in one")
    end = tail.rfind(b"PK\x05\x06")
    # 22 bytes and a comment, whose length they state, to the end of the file.
    if end >= 0 and end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") == len(tail):
        raise InputError(f"the {kind.mime} file", "is a zip archive too: it is two files in one")


def _ends(source: bytes | Path) -> tuple[bytes, bytes]:
    if isinstance(source, bytes):
        return source[:_HEAD], source[-_TAIL:]
    with open(source, "rb") as file:
        head = file.read(_HEAD)
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _TAIL))
        return head, file.read(_TAIL)
