"""What every converter shares: rows in, TSV tables out, with a word on all that is missing."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from one_peace.atomic_files import replacing
from one_peace.errors import InputError

SHOWN = 5  # missing files named in a report


@dataclass(frozen=True)
class SplitRow:
    """A row of one split. `values` are its columns in order; `media` those that must be files, below the source; `made`
    further columns with what writes their file, of media that are no files of their own."""

    split: str
    values: Mapping[str, str]
    media: tuple[str, ...]
    made: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Converted:
    """Tables of a benchmark: rows of all splits, and further JSON files by name.

    `rewrite` has, by column, what makes a file that can be read of one as published (from a path, at a path).
    `passed_over` counts, while `rows` are gone through, those of the files that become none, by the reason.
    """

    rows: Iterable[SplitRow]
    files: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Mapping[str, Callable[[Path, Path], None]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass
class ConversionReport:
    """Rows written by split, rows left out because a file of theirs is missing, and others left out, by the reason."""

    written: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    missing: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{split}: {count} rows" for split, count in self.written.items()]
        lines += [f"left out, as {reason}: {count} rows" for reason, count in self.passed_over.items()]
        if self.missing:
            names = ", ".join(self.missing[:SHOWN]) + (", ..." if len(self.missing) > SHOWN else "")
            lines.append(
                f"left out, as their files are missing: {len(self.missing)} rows ({names}; all in missing.txt)"
            )
        return "\n".join(lines)


def write_tables(converted: Converted, source: Path, out: Path) -> ConversionReport:
    """One `SPLIT.tsv` per split, media as absolute paths, and the further files.

    A table takes the place of an earlier one in one step: runs that read that one go on reading it.

    Raises:
        InputError: not a single row has its files.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = ConversionReport(passed_over=converted.passed_over)
    root = source.resolve()
    tables: dict[str, TextIO] = {}
    exists: dict[Path, bool] = {}  # many rows share a picture
    with ExitStack() as stack:
        for row in converted.rows:
            values = dict(row.values)
            for name in row.media:
                path = root / values[name]
                if path not in exists:
                    exists[path] = path.is_file()
                if not exists[path]:
                    report.missing.append(values[name])
                    break
                values[name] = str(path)
                if name in converted.rewrite:
                    values[name] = _written(out, row, name, partial(converted.rewrite[name], path))
            else:
                values |= {name: _written(out, row, name, write) for name, write in row.made.items()}
                if row.split not in tables:
                    partial_table = stack.enter_context(replacing(out / f"{row.split}.tsv"))
                    tables[row.split] = stack.enter_context(partial_table.open("w", encoding="utf-8", newline=""))
                    tables[row.split].write("\t".join(values) + "\n")
                tables[row.split].write("\t".join(one_line(value) for value in values.values()) + "\n")
                report.written[row.split] += 1
    for name, content in converted.files.items():
        (out / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if report.missing:
        (out / "missing.txt").write_text("\n".join(report.missing) + "\n", encoding="utf-8")
    else:
        (out / "missing.txt").unlink(missing_ok=True)  # of an earlier conversion
    if not report.written:
        first = f"; the first one: {report.missing[0]}" if report.missing else ""
        raise InputError(str(source), f"none of the rows has its pictures and sounds{first}")
    return report


def _written(out: Path, row: SplitRow, name: str, write: Callable[[Path], None]) -> str:
    """Where the medium of a row was written, now or by an earlier run."""
    target = out.resolve() / name / f"{one_word(row.values['uniq_id'])}.{name}.png"
    if not target.is_file():
        target.parent.mkdir(exist_ok=True)
        write(target)
    return str(target)


def one_line(value: str) -> str:
    """A value as a TSV column can hold it."""
    return " ".join(str(value).split()) if any(c in str(value) for c in "\t\r\n") else str(value)


def one_word(value: str) -> str:
    """A value as the name of a file."""
    return re.sub(r"[^\w\-]+", "_", value)


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, texts and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to load {module}.{name}")


def read_pickle(path: Path, what: str) -> Any:
    """The plain values in a pickle. `InputError` says that it is no plain `what`."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin-1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise InputError(str(path), f"is no plain {what}: {error}") from error


def read_json(source: Path, *names: str) -> Any:
    """The first of some files below `source` that is there, as JSON. `InputError` names what was looked for."""
    path = find(source, *names)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(str(path), f"is no JSON: {error}") from error


def read_csv(source: Path, *names: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, str]]:
    """Rows of the first file that is there; `columns` names those of a file without a header."""
    path = find(source, *names)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, fieldnames=columns)
        try:
            for number, row in enumerate(reader, 1):
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, row {number}", f"has not the {len(reader.fieldnames or ())} columns of the file"
                    )
                yield row
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}", f"is no CSV: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) of a file with an object per line. `InputError` names a line that is none."""
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}, line {number}"
        try:
            yield place, json.loads(line)
        except ValueError as error:
            raise InputError(place, f"is no JSON: {error}") from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text. Unlike those of `str.splitlines`, no character inside a sentence ends one."""
    with path.open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def find(source: Path, *names: str) -> Path:
    """The first of some files that is there, directly in `source` or anywhere below it."""
    found = find_any(source, *names)
    if found is None:
        raise InputError(str(source), f"holds no {' and no '.join(names)}")
    return found


def find_any(source: Path, *names: str) -> Path | None:
    """As `find`, and None where there is none."""
    for name in names:
        if (source / name).is_file():
            return source / name
    for name in names:
        found = sorted(source.rglob(name)) if source.is_dir() else []
        if found:
            return found[0]
    return None


def need(record: Any, name: str, place: str) -> Any:
    """A field of a record that must be there."""
    if not isinstance(record, Mapping):
        raise InputError(place, f"expected a record with {name!r}, got {str(record)!r:.60}")
    if name not in record:
        raise InputError(place, f"a record has no {name!r}; it has {', '.join(map(str, record))}")
    return record[name]
