"""What a file is by its first bytes, whatever its name or its sender says."""

from __future__ import annotations

from dataclasses import dataclass

from one_peace.media.sources import looks_like_text


@dataclass(frozen=True)
class FileType:
    """A type of file: what family it is of (a modality's name or "document"), its MIME type, the ending of its name."""

    family: str
    mime: str
    ending: str


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

_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"OggS", "ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"FLV\x01", "flv"),
    (b"caff", "caf"),
    (b"#!AMR", "amr"),
    (b"\xff\xf1", "aac"),
    (b"\xff\xf9", "aac"),
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"FORM", "aiff"),
    (b"\x00\x00\x01\xba", "mpeg"),
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


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that starts with `head`, None if it is none of those that hold sounds.

    Named here and not left to FFmpeg's guess, which also takes playlists and other texts that make it open
    further files and network addresses.
    """
    if head[4:8] in _ISO_BOXES:
        return "mov"
    if head[:4] == b"RIFF":
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12])
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return "mpegts"
    return next((container for signature, container in _CONTAINERS if head.startswith(signature)), None)
