"""The published data files: tab-separated tables with a header, media as base64 or as paths."""

from __future__ import annotations

import base64
import binascii
from functools import partial
from pathlib import Path

import numpy as np

from one_peace.data.row_index import RowFile, first_line
from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import InputError

ROWS_PER_BLOCK = 4096
TEXT_COLUMNS = ("text", "caption")
KEY_COLUMNS = ("uniq_id", "image_id", "id")


class TableSource:
    """Pairs from one TSV file. The last column may contain tabs, as in the published files.

    Args:
        partner: column of the picture or sound: base64 (standard or URL-safe), or a path relative to `root` (by
            default the folder of the file). A path is told by its dot, which base64 does not have.
        text: column of the caption; by default `text` or `caption`, whichever there is.
        cache: where the index of the rows is kept.

    Raises:
        InputError: the file or one of the columns is missing.
    """

    sized_by_block = False

    def __init__(
        self, path: Path, partner: str, cache: Path, *, text: str | None = None, root: Path | None = None
    ) -> None:
        self.name, self.path = str(path), path
        self.root = path.parent if root is None else root
        columns = first_line(path).split("\t")
        self.count = len(columns)
        self.partner = column_number(columns, (partner,), path)
        self.text = column_number(columns, TEXT_COLUMNS if text is None else (text,), path)
        self.key = next((columns.index(name) for name in KEY_COLUMNS if name in columns), None)
        duration = columns.index("duration") if "duration" in columns else None
        measure = partial(_measure, self.count, self.text, duration)
        layout = f"{self.count} {self.text} {duration}"
        self.rows = RowFile(path, measure, layout, cache, header=True, quoted=False)
        self.blocks = even_blocks(len(self.rows), ROWS_PER_BLOCK)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> RawPair:
        fields = self.rows.row(index).split(b"\t", self.count - 1)
        key = f"{self.path}, row {index + 1}"
        if len(fields) < self.count:
            raise UnusablePair(key, f"has {len(fields)} columns, the header {self.count}", "row too short")
        if self.key is not None:
            key += f" ({fields[self.key][:60].decode('utf-8', 'replace')})"
        try:
            text = fields[self.text].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnusablePair(key, "its text is not UTF-8", "text is not UTF-8") from error
        return RawPair(key, text, media_of(fields[self.partner], self.root, key))

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        return self.rows.sizes(indices)


def column_number(columns: list[str], wanted: tuple[str, ...], path: Path) -> int:
    """The number of the first wanted column that there is."""
    for name in wanted:
        if name in columns:
            return columns.index(name)
    shown = ", ".join(repr(c[:40]) for c in columns[:20])
    raise InputError(str(path), f"has no column {' or '.join(map(repr, wanted))}; its columns are {shown}")


def even_blocks(count: int, size: int) -> np.ndarray:
    """Blocks of equal size, the last one shorter: (blocks + 1,) int64."""
    return np.append(np.arange(0, count, size), count).astype(np.int64)


def media_of(field: bytes, root: Path, key: str) -> bytes | Path:
    """A media column as contents or path."""
    if not field:
        raise UnusablePair(key, "its picture or sound is empty", "no media")
    if b"." in field[:4096]:
        try:
            return root / field.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UnusablePair(key, "the path of its picture or sound is not UTF-8", "bad path") from error
    standard = field.strip().replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusablePair(key, f"its picture or sound is neither base64 nor a path ({error})", "bad base64") from error


def _measure(count: int, text: int, duration: int | None, row: bytes) -> tuple[int, int]:
    """Bytes of the text, and milliseconds of the sound where a column says its duration in seconds."""
    fields = row.split(b"\t", count - 1)
    if len(fields) < count:
        return 0, 0
    try:
        partner = 0 if duration is None else max(0, int(1000 * float(fields[duration])))
    except (ValueError, OverflowError):
        partner = 0
    return len(fields[text]), partner
