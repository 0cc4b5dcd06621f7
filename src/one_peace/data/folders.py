"""Folders of pictures or sounds with a list of them: CSV, JSON lines, or the manifest of a sample library."""

from __future__ import annotations

import csv
import io
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.data.manifest import Split, captioned_items, load_manifest
from one_peace.data.row_index import RowFile, ends_in_quotes, first_line
from one_peace.data.source import RawPair, UnusablePair
from one_peace.data.tables import ROWS_PER_BLOCK, TEXT_COLUMNS, column_number, even_blocks
from one_peace.errors import InputError

LISTS = ("pairs.csv", "pairs.jsonl", "metadata.csv", "metadata.jsonl", "manifest.csv", "manifest.jsonl")
PATH_COLUMNS = ("path", "file_name")
_NO_ENTRY = (ValueError, TypeError, StopIteration, RecursionError, csv.Error)


class FolderSource:
    """Pairs listed in a CSV or JSON-lines file with a path and a text each; paths are relative to the list.

    Args:
        path: the list, or a folder that holds one of `LISTS`.
        cache: where the index of the rows is kept.
        weigh: look at the size of each file, to put sounds of similar length into one batch.

    Raises:
        InputError: there is no list, or it has no column for paths or texts.
    """

    sized_by_block = False

    def __init__(self, path: Path, cache: Path, *, weigh: bool = False) -> None:
        self.name, self.path = str(path), find_list(path)
        self.root = self.path.parent
        self.columns: tuple[int, int, int] | None = None  # of a CSV: how many, the path's, the text's
        if self.path.suffix == ".csv":
            columns = next(csv.reader([first_line(self.path)]))
            path_column = column_number(columns, PATH_COLUMNS, self.path)
            self.columns = len(columns), path_column, column_number(columns, TEXT_COLUMNS, self.path)
        else:
            _check_first_row(self.path)
        measure = partial(_measure, self.columns, self.root if weigh else None)
        is_csv = self.columns is not None
        self.rows = RowFile(self.path, measure, f"{self.columns} {weigh}", cache, header=is_csv, quoted=is_csv)
        self.blocks = even_blocks(len(self.rows), ROWS_PER_BLOCK)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> RawPair:
        key = f"{self.path}, entry {index + 1}"
        try:
            path, text = _fields(self.rows.row(index), self.columns)
        except _NO_ENTRY as error:
            raise UnusablePair(key, f"is no entry with a path and a text ({error})", "bad entry") from error
        return RawPair(f"{key} ({path})", text, self.root / path)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        return self.rows.sizes(indices)


class ManifestSource:
    """Pairs of a sample library: each picture or sound of a split once for each of its English captions."""

    sized_by_block = False

    def __init__(self, path: Path, partner: str, *, split: Split = "train") -> None:
        self.name, self.path = str(path), path
        self.pairs: list[tuple[Path, str]] = []
        lengths: list[list[int]] = []
        for item in captioned_items(load_manifest(path), partner, split):
            captions = item.texts.get("en", [])
            self.pairs += [(item.path, text) for text in captions]
            lengths += [[len(text.encode()), int(1000 * (item.duration or 0))] for text in captions]
        self._sizes = np.array(lengths, np.int64).reshape(-1, 2)
        if not self.pairs:
            which = {"train": "training", "val": "validation", "test": "test"}[split]
            raise InputError(str(path), f"has no {which} pairs of {partner} and English text")
        self.blocks = even_blocks(len(self.pairs), ROWS_PER_BLOCK)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> RawPair:
        path, text = self.pairs[index]
        return RawPair(str(path), text, path)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        return self._sizes[indices]


def find_list(path: Path) -> Path:
    """The list of a folder, or the list itself."""
    if path.is_dir():
        for name in LISTS:
            if (path / name).exists():
                return path / name
        raise InputError(str(path), f"holds no list of pairs; expected one of {', '.join(LISTS)}")
    if not path.exists():
        raise InputError(str(path), "no such file or folder")
    if path.suffix not in (".csv", ".jsonl"):
        raise InputError(str(path), "is neither a .csv nor a .jsonl list of pairs")
    return path


def _check_first_row(path: Path) -> None:
    """A JSON-lines list says its columns in every row; the first stands for all."""
    try:
        row = json.loads(first_line(path))
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"its first line is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(str(path), 'its first line is no JSON object such as {"path": "a.png", "text": "an apple"}')
    column_number(list(row), PATH_COLUMNS, path)
    column_number(list(row), TEXT_COLUMNS, path)


def _fields(row: bytes, columns: tuple[int, int, int] | None) -> tuple[str, str]:
    """Path and text of a row."""
    content = row.decode("utf-8-sig")
    if columns is None:
        values: dict[str, Any] = json.loads(content)
        path = next(values[name] for name in PATH_COLUMNS if name in values)
        text = next(values[name] for name in TEXT_COLUMNS if name in values)
        if not isinstance(path, str) or not isinstance(text, str):
            raise ValueError("path and text must be texts")
        return path, text
    if ends_in_quotes(row):
        raise ValueError("a field in quotes does not end")
    count, path_column, text_column = columns
    fields = next(csv.reader(io.StringIO(content, newline="")))
    if len(fields) != count:
        raise ValueError(f"{len(fields)} columns instead of {count}")
    return fields[path_column], fields[text_column]


def _measure(columns: tuple[int, int, int] | None, root: Path | None, row: bytes) -> tuple[int, int]:
    """Bytes of the text, and of the file if `root` says where to find it."""
    try:
        path, text = _fields(row, columns)
        return len(text.encode()), 0 if root is None else os.stat(root / path).st_size
    except (*_NO_ENTRY, OSError):
        return 0, 0
