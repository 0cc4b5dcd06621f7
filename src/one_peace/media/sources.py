"""Where a picture or sound comes from: paths, bytes, file objects and URLs, as one readable stream.

Anything that cannot be opened is an `InputError` that names the source, so that the caller of a batch
can skip one bad item and keep the rest.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import threading
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from one_peace.errors import InputError

# What has to be held in memory (data: URLs and the contents of file objects). Files on disk are streamed.
MAX_BYTES = 1 << 30

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LONGEST_NAME = 200

# Held while a file object is read: several of them may share one stream, such as the members of a tar file, each of
# which seeks there and then reads.
_READING = threading.Lock()


def describe(source: object) -> str:
    """A short name of any input, for messages: its path, or what kind of thing it is."""
    if isinstance(source, str):
        return _shorten(source) if source.isprintable() and source else repr(_shorten(source))
    if isinstance(source, os.PathLike):
        return _shorten(os.fsdecode(os.fspath(source)))
    if isinstance(source, bytes | bytearray):
        return f"<bytes, {len(source)} B>"
    if isinstance(source, memoryview):
        return "<memoryview>"
    if isinstance(source, tuple) and len(source) == 2:
        return f"({describe(source[0])}, {describe(source[1])})"
    shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
    if shape is not None and dtype is not None:
        return f"array of shape {tuple(shape)}, {str(dtype).removeprefix('torch.')}"
    size, mode = getattr(source, "size", None), getattr(source, "mode", None)
    if isinstance(size, tuple) and len(size) == 2 and isinstance(mode, str):
        return f"picture of {size[0]} x {size[1]}, {mode}"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return _shorten(name) if isinstance(name, str) and name else f"<{type(source).__name__}>"
    if source is None or isinstance(source, bool | int | float | complex):
        return _shorten(repr(source))
    return f"<{type(source).__name__}>"


def is_stored(source: object) -> bool:
    """Whether `source` is a place to read bytes from (as opposed to an array or a decoded picture)."""
    if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    return hasattr(source, "read") and not hasattr(source, "shape")


def local_path(source: object) -> Path | None:
    """The path of a source that is a path or a file:// URL, else None."""
    if isinstance(source, str):
        if source[:5].lower() == "file:":
            return _path_of_url(source)
        if _URL.match(source) or source[:5].lower() == "data:":
            return None
        return Path(source)
    if isinstance(source, os.PathLike):
        return Path(os.fsdecode(os.fspath(source)))
    return None


def open_source(source: Source, *, max_bytes: int = MAX_BYTES) -> BinaryIO:
    """Open `source` for reading from its start; the caller closes the result (it is a context manager).

    Accepted: a path (`str` or path object), a file:// or data: URL, the contents themselves (`bytes`,
    `bytearray`, `memoryview`) and a file object opened in binary mode, which is read from its current
    position and left open. `bytes` are always contents, never a path. Other URLs are refused: this
    function makes no network request.

    Raises:
        InputError: missing, unreadable, a directory, a device, an unknown URL scheme, a malformed data:
            URL, or more than `max_bytes` to hold in memory.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        try:
            contents = bytes(source)
        except ValueError as error:  # a released memoryview
            raise InputError(describe(source), str(error)) from error
        return io.BytesIO(contents)
    if isinstance(source, str) and source[:5].lower() == "data:":
        return io.BytesIO(_data_of_url(source, max_bytes))
    path = local_path(source)
    if path is not None:
        return _open_path(path, describe(source))
    if isinstance(source, str):
        scheme = source.split(":", 1)[0]
        raise InputError(describe(source), f"{scheme}:// is not fetched; pass the path or bytes of a downloaded file")
    if hasattr(source, "read"):
        return io.BytesIO(_contents(source, max_bytes))
    raise InputError(describe(source), "expected a path, a file:// URL, bytes or a binary file object")


def looks_like_text(head: bytes) -> bool:
    """Whether the first bytes of a file read as UTF-8 text without control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or error.start == 0:  # else: a character cut at the end
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isspace() or unicodedata.category(character) != "Cc" for character in text)


def _open_path(path: Path, name: str) -> BinaryIO:
    if not os.fspath(path) or os.fspath(path) == "." and name != ".":
        raise InputError(name, "the path is empty")
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise InputError(name, "is a directory; pass the files in it")
        if not stat.S_ISREG(kind):  # a pipe or a device would block or never end
            raise InputError(name, "is not a regular file; pass an open file object instead")
        return open(path, "rb")
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(name, "no such file") from error
    except PermissionError as error:
        raise InputError(name, "no permission to read it") from error
    except (OSError, ValueError) as error:  # a name too long, a NUL or a lone surrogate in it, a failing disk
        raise InputError(name, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _path_of_url(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(describe(url), f"malformed file URL: {error}") from error
    if parts.netloc not in ("", "localhost"):
        raise InputError(describe(url), f"names the host {parts.netloc!r}; local files are file:///absolute/path")
    if not parts.path.startswith("/"):
        raise InputError(describe(url), "a file URL needs an absolute path: file:///absolute/path")
    path = unquote(parts.path, errors="surrogateescape")
    if os.name == "nt":  # /C:/pictures/cow.png
        path = path.lstrip("/")
    return Path(path)


def _data_of_url(url: str, max_bytes: int) -> bytes:
    name = describe(url)
    header, comma, payload = url.partition(",")
    if not comma:
        raise InputError(name, "malformed data URL: no comma between header and data")
    encoded = header.lower().replace(" ", "").endswith(";base64")
    if (len(payload) * 3 // 4 if encoded else len(payload) // 3) > max_bytes:
        raise InputError(name, f"holds more than {max_bytes} B")
    try:
        raw = unquote_to_bytes(payload)
        if encoded:  # in lines and without padding, too, as browsers read it
            raw = b"".join(raw.split())
            raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InputError(name, f"malformed data URL: {error}") from error
    if len(raw) > max_bytes:
        raise InputError(name, f"holds more than {max_bytes} B")
    return raw


def _contents(stream: Any, max_bytes: int) -> bytes:
    """The rest of a file object. Copied, so that decoders may seek in it and close it as they like."""
    name = describe(stream)
    pieces: list[bytes] = []
    total = 0
    with _READING:
        while piece := _piece(stream, name):
            pieces.append(piece)
            total += len(piece)
            if total > max_bytes:
                raise InputError(name, f"holds more than {max_bytes} B; pass the file's path instead")
    if not total:
        raise InputError(name, "nothing left to read; rewind the file object with seek(0)")
    return b"".join(pieces)


_TEXT_MODE = "the file object is opened as text; open it in binary mode ('rb')"


def _piece(stream: Any, name: str) -> bytes:
    try:
        piece = stream.read(1 << 20)
    except UnicodeDecodeError as error:
        raise InputError(name, _TEXT_MODE) from error
    except Exception as error:  # foreign code: zip members, sockets, ... have errors of their own
        raise InputError(name, f"reading the file object failed: {str(error) or type(error).__name__}") from error
    if isinstance(piece, str):
        raise InputError(name, _TEXT_MODE)
    if piece and not isinstance(piece, bytes | bytearray | memoryview):
        raise InputError(name, f"the file object returned {type(piece).__name__} instead of bytes")
    return bytes(piece or b"")


def _shorten(text: str) -> str:
    """Keep both ends: the end of a path is what tells files apart. Never unprintable to a strict terminal."""
    if len(text) > _LONGEST_NAME:
        text = f"{text[:90]}...{text[-90:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
