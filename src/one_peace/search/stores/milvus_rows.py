"""Rows and conditions as Milvus has them: the fields of a collection, plain values, expressions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from one_peace.search.filters import Condition, Filter
from one_peace.search.records import COLUMNS, Entry, Record

ROWS_PER_REQUEST = 500
_TEXT = 65_535  # bytes that a text column takes at most
_LABELS = 1024  # tags of a row, at most
_NONE = -1.7e308  # stands for None in a column of numbers: this server's version has no empty values


def add_fields(schema: Any, dim: int) -> None:
    """The fields of a row with a vector of `dim` numbers, put into an empty schema of pymilvus."""
    from pymilvus import DataType

    types = {str: DataType.VARCHAR, int: DataType.INT64, float | None: DataType.DOUBLE}
    for name, kind in COLUMNS.items():
        if kind == tuple[str, ...]:
            more = {"element_type": DataType.VARCHAR, "max_capacity": _LABELS, "max_length": _TEXT}
            schema.add_field(name, DataType.ARRAY, **more)
        else:
            more = {"max_length": _TEXT} if kind is str else {}
            schema.add_field(name, types[kind], is_primary=name == "id", **more)
    schema.add_field("thumbnail", DataType.VARCHAR, max_length=_TEXT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)


def row_of(record: Record) -> dict[str, Any]:
    """A row as the server takes it; `ValueError` for a thumbnail that is too big."""
    row = {name: _value(getattr(record.entry, name)) for name in COLUMNS}
    small = base64.b64encode(record.thumbnail or b"").decode()
    if len(small) > _TEXT:
        raise ValueError(f"{record.entry.path!r}: Milvus takes thumbnails of up to {_TEXT * 3 // 4} bytes")
    return row | {"thumbnail": small, "vector": np.asarray(record.vector, np.float32)}


def _value(value: Any) -> Any:
    if value is None:
        return _NONE
    return list(value) if isinstance(value, tuple) else value


def record_of(row: dict[str, Any]) -> Record:
    """What `row_of` made a row of."""
    small = base64.b64decode(row["thumbnail"]) if row["thumbnail"] else None
    return Record(entry_of(row), np.asarray(row["vector"], np.float32), small)


def entry_of(row: dict[str, Any]) -> Entry:
    """A row of the server without its vector."""
    values: dict[str, Any] = {name: row[name] for name in COLUMNS}
    for name, kind in COLUMNS.items():
        if kind == tuple[str, ...]:
            values[name] = tuple(values[name])
        elif kind == float | None and values[name] == _NONE:
            values[name] = None
    return Entry(**values)


def expression(where: Filter) -> str:
    """Conditions, other than `contains`, in the words of the server."""
    return " and ".join(map(_condition, where))


def _condition(condition: Condition) -> str:
    field, value = condition.field, condition.value
    match condition.test:
        case "in":
            text = f"{field} in [{', '.join(map(_literal, value))}]"
        case "has":
            text = f"array_contains_any({field}, [{', '.join(map(_literal, value))}])"
        case "prefix":  # its LIKE has no way to write % and _
            text = f"({field} >= {_literal(value)} and {field} < {_literal(value + chr(0x10FFFF))})"
        case test:
            text = f"{field} {test} {_literal(value)}"
    text = f"not ({text})" if condition.negated else text
    return f"({text} and {field} > {_NONE})" if COLUMNS[field] == float | None else text


def _literal(value: str | float) -> str:
    return json.dumps(value, ensure_ascii=False)


def among(ids: Sequence[str]) -> Iterator[str]:
    """Expressions that together let rows of these ids pass, as many in each as a request takes well."""
    for start in range(0, len(ids), ROWS_PER_REQUEST):
        yield f"id in [{', '.join(map(_literal, ids[start : start + ROWS_PER_REQUEST]))}]"
