"""Where each row of a text file begins: built in one pass, memory-mapped, so that a file of 100 GB costs no memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from one_peace.data.cache_files import built_once
from one_peace.data.open_file import OpenFile
from one_peace.errors import InputError

VERSION = 2  # of what an index file says: its format, and where a row ends
ROW = np.dtype([("start", "<u8"), ("length", "<u4"), ("text", "<u4"), ("partner", "<u4")])
LONGEST_QUOTED = 1 << 17  # bytes of a row over several lines; the csv module reads no longer field
_AT_ONCE = 1 << 16  # rows written in one go
_OPENING = re.compile(rb'(?:^|,)"')  # a quote means something at the start of a field alone
_QUOTES = re.compile(rb'"+')

Measure = Callable[[bytes], tuple[int, int]]
"""A row -> how long its text and its partner are (`PairSource.sizes`); (0, 0) for a row that cannot be read."""


class RowFile:
    """The rows of a text file by number. Picklable; the file and its index are opened where they are first used.

    Args:
        header: whether the first line is no row.
        measure: sizes of a row, kept in the index; `layout` says in words what it depends on beside the file.
        quoted: rows may go over several lines inside double quotes (CSV).
        cache: folder of the index files. A new one is made when the file changes.
    """

    def __init__(self, path: Path, measure: Measure, layout: str, cache: Path, *, header: bool, quoted: bool) -> None:
        self.path = path
        try:
            stat = path.stat()
        except OSError as error:
            raise InputError(str(path), f"cannot be opened: {error.strerror}") from error
        state = f"{VERSION}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{layout}|{header}|{quoted}"
        name = f"{path.stem[:80]}-{hashlib.sha256(state.encode()).hexdigest()[:20]}.rows"
        build = partial(_build, path, measure, header, quoted)
        self.index_path = built_once(cache / "indexes" / name, build)
        self.count = self.index_path.stat().st_size // ROW.itemsize
        self._opened: OpenFile | None = None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> OpenFile:
        if self._opened is None:
            index = np.memmap(self.index_path, ROW, "r")
            self._opened = OpenFile(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), index)
        return self._opened

    def row(self, number: int) -> bytes:
        """A row without its line end; what is left of it in a file that was cut short."""
        opened = self._open()
        start, length = int(opened.index["start"][number]), int(opened.index["length"][number])
        return os.pread(opened.descriptor, length, start)

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """(n,) int64 -> (n, 2) int64: what `measure` said of each row."""
        entries = self._open().index[numbers]
        return np.stack([entries["text"], entries["partner"]], axis=1).astype(np.int64)


def first_line(path: Path) -> str:
    """The header of a text file, without line end and byte order mark.

    Raises:
        InputError: the file cannot be read, is empty, or is no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(1 << 20)
    except OSError as error:
        raise InputError(str(path), f"cannot be opened: {error.strerror}") from error
    if not line.strip():
        raise InputError(str(path), "is empty; its first line must name the columns")
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"its first line is not UTF-8 ({error.reason})") from error


def ends_in_quotes(line: bytes, inside: bool = False) -> bool:
    """Whether a field in double quotes is still open at the end of a line of CSV; `inside`: one is at its start."""
    place = 0
    while found := (_QUOTES if inside else _OPENING).search(line, place):
        place = found.end()
        # Inside, two quotes stand for one of the text: only an odd one closes.
        inside = not inside or len(found[0]) % 2 == 0
    return inside


def _build(path: Path, measure: Measure, header: bool, quoted: bool, target: Path) -> None:
    with open(path, "rb") as file, open(target, "wb") as out:
        pending: list[tuple[int, int, int, int]] = []
        for start, row in _rows(file, header, quoted):
            content = row.rstrip(b"\r\n")
            if content:
                text, partner = measure(content)
                pending.append((start, len(content), min(text, 0xFFFF_FFFF), min(partner, 0xFFFF_FFFF)))
            if len(pending) == _AT_ONCE:
                out.write(np.array(pending, ROW).tobytes())
                pending.clear()
        out.write(np.array(pending, ROW).tobytes())


def _rows(file: BinaryIO, header: bool, quoted: bool) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each row."""
    start = 0
    while line := file.readline():
        row = _with_quoted_lines(file, line) if quoted else line
        if start or not header:
            yield start, row
        start += len(row)


def _with_quoted_lines(file: BinaryIO, first: bytes) -> bytes:
    """A row of CSV from its first line on. Where a quote is never closed, that line alone, lest it swallow the list."""
    behind, row, inside = file.tell(), bytearray(first), ends_in_quotes(first)
    while inside:
        line = file.readline()
        if not line or len(row) + len(line) > LONGEST_QUOTED:
            file.seek(behind)
            return first
        row += line
        inside = ends_in_quotes(line, inside)
    return bytes(row)
