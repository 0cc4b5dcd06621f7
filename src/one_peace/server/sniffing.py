"""What a file is by its first bytes, whatever its name or its sender says; and files that are two things at a time."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from one_peace.errors import InputError
from one_peace.media.sources import looks_like_text


@dataclass(frozen=True)
class FileType:
    """A type of file: what family it is of (a modality's name or "document"), its MIME type, the ending of its name."""

    family: str
    mime: str
    ending: str


_HEAD = 4096  # bytes that a file is known by
_TAIL = 65_557  # bytes from a zip archive's end in which its directory's end must begin

TEXT = FileType("text", "text/plain; charset=utf-8", ".txt")

_SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", FileType("image", "image/png", ".png")),
    (0, b"\xff\xd8\xff", FileType("image", "image/jpeg", ".jpg")),
    (0, b"GIF87a", FileType("image", "image/gif", ".gif")),
    (0, b"GIF89a", FileType("image", "image/gif", ".gif")),
    (8, b"WEBP", FileType("image", "image/webp", ".webp")),
    (0, b"II*\x00", FileType("image", "image/tiff", ".tiff")),
    (0, b"MM\x00*", FileType("image", "image/tiff", ".tiff")),
    (4, b"ftypavif", FileType("image", "image/avif", ".avif")),
    (0, b"\x00\x00\x00\x0cjP  ", FileType("image", "image/jp2", ".jp2")),
    (8, b"WAVE", FileType("audio", "audio/wav", ".wav")),
    (0, b"fLaC", FileType("audio", "audio/flac", ".flac")),
    (0, b"OggS", FileType("audio", "audio/ogg", ".ogg")),
    (0, b"ID3", FileType("audio", "audio/mpeg", ".mp3")),
    (0, b"\xff\xfb", FileType("audio", "audio/mpeg", ".mp3")),
    (0, b"\xff\xf3", FileType("audio", "audio/mpeg", ".mp3")),
    (0, b"\xff\xf2", FileType("audio", "audio/mpeg", ".mp3")),
    (8, b"AIFF", FileType("audio", "audio/aiff", ".aiff")),
    (8, b"AIFC", FileType("audio", "audio/aiff", ".aiff")),
    (4, b"ftypM4A", FileType("audio", "audio/mp4", ".m4a")),
    (4, b"ftypqt", FileType("video", "video/quicktime", ".mov")),
    (4, b"ftyp", FileType("video", "video/mp4", ".mp4")),
    (8, b"AVI ", FileType("video", "video/x-msvideo", ".avi")),
    (0, b"BM", FileType("image", "image/bmp", ".bmp")),
    (0, b"%PDF-", FileType("document", "application/pdf", ".pdf")),
)
_WEBM = FileType("video", "video/webm", ".webm")
_MATROSKA = FileType("video", "video/x-matroska", ".mkv")

# What browsers look for when they guess (the MIME sniffing standard), and what servers and shells execute.
_MARKUP = re.compile(
    rb"<(?:!doctype|html|head|body|script|iframe|svg|\?php|\?xml-stylesheet)[\s>/]|%PDF-", re.IGNORECASE
)


def file_type(head: bytes) -> FileType | None:
    """The type of a file that starts with `head`, None if it is none of those that are known."""
    # Media have control characters in their first bytes; a text may well begin with "BM".
    if head and looks_like_text(head) and not head.startswith(b"%PDF-"):
        return TEXT
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _WEBM if b"webm" in head[:64] else _MATROSKA
    return None


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
