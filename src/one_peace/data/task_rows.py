"""Tables of fine-tuned tasks: rows as columns -> values, from the published TSV files or a user's CSV or JSON lines."""

from __future__ import annotations

import bisect
import csv
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from one_peace.data.mixture import CYCLE, interleave, shares_of
from one_peace.data.permutation import mix, permute
from one_peace.data.row_index import RowFile, first_line
from one_peace.data.source import UnusablePair
from one_peace.data.tables import KEY_COLUMNS, media_of
from one_peace.errors import InputError

SUFFIXES = (".tsv", ".csv", ".jsonl")
csv.field_size_limit(2**31 - 1)  # pictures in base64 are longer than the 128 KiB of the default


class Rows(Protocol):
    """Rows by number, to be drawn from: tables, or clips."""

    @property
    def path(self) -> Path | str:
        """What messages call them."""

    @property
    def media(self) -> tuple[str, ...]:
        """Columns with pictures, sounds and the like."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """(key, column -> value) of a row. `InputError` names one that cannot be used."""


class TaskRows:
    """The rows of a table by number; media columns become contents (base64) or paths.

    In a TSV file the last column may contain tabs, as in the published files. `renamed` gives columns other names:
    `{"path": "image"}` reads a user's `path,label` as pictures with labels. Media paths are relative to `root`, by
    default the folder of the table. Ids may occur twice, as those of pictures with several captions do, where
    `check_ids` is not called. Picklable.

    Raises:
        InputError: no such file, another kind of file, no rows, a column that is not there, or one that is there twice.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        media: Sequence[str],
        cache: Path,
        *,
        renamed: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        if path.suffix not in SUFFIXES:
            raise InputError(str(path), f"is no table: its name must end in {', '.join(SUFFIXES)}")
        self.path, self.media, self.renamed = path, tuple(media), dict(renamed or {})
        self.root = path.parent if root is None else root
        head = first_line(path)
        table = path.suffix != ".jsonl"
        self.rows = RowFile(path, _no_sizes, "task", cache, header=table, quoted=path.suffix == ".csv")
        self.header = head.split("\t") if path.suffix == ".tsv" else _fields(head, str(path)) if table else None
        if not len(self.rows):
            raise InputError(str(path), "has no rows")
        known = list(self._values(0)) if self.header is None else self._names(self.header, str(path))
        missing = [name for name in columns if name not in known]
        if missing:
            own = [name.strip() for name in self.header or known]
            own = [f"{name} (read as {self.renamed[name]})" if name in self.renamed else name for name in own]
            raise InputError(str(path), f"has no column {missing[0]!r}; its columns are {', '.join(own)}")
        self.id = next((name for name in KEY_COLUMNS if name in known), None)

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int, values: Mapping[str, Any]) -> str:
        """How messages name a row."""
        own = f" ({str(values.get(self.id))[:60]})" if self.id else ""
        return f"{self.path}, row {index + 1}{own}"

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """(key, column -> value) of a row. `InputError` names one that does not have the header's columns."""
        values = self._values(index)
        key = self.key(index, values)
        for name in self.media:
            if isinstance(values.get(name), str) and values[name]:
                try:
                    values[name] = media_of(values[name].encode(), self.root, key)
                except UnusablePair as error:
                    raise InputError(key, f"column {name!r}: {error.problem}") from error
        return key, values

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
        """Every row with its key, in order; in place of one that cannot be read stands the error."""
        for index in range(len(self)):
            try:
                yield self.row(index)
            except InputError as error:
                yield error.source, error

    def check_ids(self) -> None:
        """`InputError` names an id that two rows have: their predictions could not be told apart. Rows that cannot be
        read are for whoever comes to them."""
        if self.id is None:
            return
        seen: dict[str, int] = {}
        for index in range(len(self)):
            try:
                own = str(self._values(index).get(self.id))
            except InputError:
                continue
            if own in seen:
                raise InputError(
                    str(self.path), f"rows {seen[own] + 1} and {index + 1} have the same {self.id}, {own[:60]}"
                )
            seen[own] = index

    def _name(self, column: str) -> str:
        return self.renamed.get(column.strip(), column.strip())

    def _names(self, own: Collection[str], place: str) -> list[str]:
        """What columns are read as, `own` being their names in the file; `InputError` names two that are the same."""
        known = [self._name(name) for name in own]
        twice = next((name for name in known if name and known.count(name) > 1), None)
        if twice is not None:
            alike = ", ".join(name.strip() for name in own if self._name(name) == twice)
            raise InputError(place, f"has several columns that are read as {twice!r}: {alike}; rename some")
        return known

    def _values(self, index: int) -> dict[str, Any]:
        place = f"{self.path}, row {index + 1}"
        try:
            content = self.rows.row(index).decode("utf-8-sig" if self.header is None and not index else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(place, "is not UTF-8") from error
        if self.header is None:
            try:
                values = json.loads(content)
            except ValueError as error:
                raise InputError(place, f"is no JSON ({error})") from error
            if not isinstance(values, dict):
                raise InputError(place, "is no JSON object")
            return dict(zip(self._names(values, place), values.values(), strict=True))
        tabbed = self.path.suffix == ".tsv"
        fields = content.split("\t", len(self.header) - 1) if tabbed else _fields(content, place)
        if len(fields) != len(self.header):
            raise InputError(place, f"has {len(fields)} columns, the header {len(self.header)}")
        return {self._name(name): field for name, field in zip(self.header, fields, strict=True)}


class JoinedRows:
    """Several tables as one, one after the other; each has its own columns and ids."""

    def __init__(self, parts: Sequence[TaskRows]) -> None:
        self.parts, self.media = tuple(parts), parts[0].media
        self.path = ", ".join(str(part.path) for part in parts)
        self.ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """(key, column -> value) of a row; errors as of `TaskRows.row`."""
        number = bisect.bisect_right(self.ends, index)
        return self.parts[number].row(index - self.ends[number] + len(self.parts[number]))


class WeightedRows(JoinedRows):
    """Several tables drawn from by weight, each in an order of its own; an epoch is as many draws as there are rows.

    Raises:
        ValueError: a weight that is not positive.
    """

    def __init__(self, parts: Sequence[TaskRows], weights: Sequence[float]) -> None:
        super().__init__(parts)
        names = [str(number) for number in range(len(parts))]
        self.shares = shares_of(names, dict(zip(names, weights, strict=True)))
        self.pattern = interleave(self.shares)

    def drawn(self, place: int, seed: int) -> int:
        """The row at a place of the run, which depends on the place and the seed alone."""
        cycle, slot = divmod(place, CYCLE)
        number = int(self.pattern[slot])
        before = int((self.pattern[:slot] == number).sum())
        part = self.parts[number]
        epoch, index = divmod(cycle * int(self.shares[number]) + before, len(part))
        order = permute(np.array([index]), len(part), mix(seed, "order", number, epoch))
        return self.ends[number] - len(part) + int(order[0])


def _fields(row: str, place: str) -> list[str]:
    """The values of a CSV row."""
    try:
        return next(csv.reader([row], skipinitialspace=True), [])
    except csv.Error as error:
        raise InputError(place, f"is no CSV ({error})") from error


def _no_sizes(row: bytes) -> tuple[int, int]:
    return 0, 0
