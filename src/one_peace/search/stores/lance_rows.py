"""Rows and conditions as LanceDB has them: an Arrow schema, Arrow tables, SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from one_peace.search.filters import Condition, Filter
from one_peace.search.records import COLUMNS, Entry, Space, arrow_columns
from one_peace.search.stores.base import space_from_json, space_to_json

_SPACE = b"one-peace"  # key in the table's metadata
_KEY = "lance-schema:unenforced-primary-key"
_IDS_PER_STATEMENT = 1000


def schema(space: Space) -> Any:
    """Of a table of rows with vectors of `space`."""
    import pyarrow

    columns = arrow_columns()
    # By this LanceDB sees that two writers add the same row at the same time, and lets one of them try again.
    columns[0] = pyarrow.field("id", pyarrow.string(), nullable=False, metadata={_KEY: "true"})
    columns.append(pyarrow.field("revision", pyarrow.int64()))
    columns.append(pyarrow.field("thumbnail", pyarrow.binary()))
    columns.append(pyarrow.field("vector", pyarrow.list_(pyarrow.float32(), space.dim)))
    return pyarrow.schema(columns, metadata={_SPACE: space_to_json(space).encode()})


def space_of(table: Any, address: str) -> Space:
    """Whose vectors a table holds; `StoreError` if it is none of ours."""
    return space_from_json((table.schema.metadata or {}).get(_SPACE), address)


def entries_of(table: Any) -> list[Entry]:
    """The rows of an Arrow table without their vectors."""
    columns = []
    for name, kind in COLUMNS.items():
        values = table[name].to_pylist()
        columns.append(map(tuple, values) if kind == tuple[str, ...] else values)
    return [Entry(*row) for row in zip(*columns, strict=True)]


def vectors_of(table: Any, dim: int) -> np.ndarray:
    """The column of vectors as (n, dim) float32."""
    if not len(table):
        return np.empty((0, dim), np.float32)
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, dim)


def sql(where: Filter) -> str | None:
    """Conditions in the words of the engine; None if there is none."""
    return " AND ".join(map(_condition, where)) or None


def _condition(condition: Condition) -> str:
    field, value = condition.field, condition.value
    match condition.test:
        case "in":
            text = f"{field} IN ({', '.join(map(_literal, value))})"
        case "has":
            text = f"array_has_any({field}, [{', '.join(map(_literal, value))}])"
        case "prefix":
            text = f"starts_with({field}, {_literal(value)})"
        case "contains":
            text = f"contains(lower({field}), {_literal(value.lower())})"
        case test:
            text = f"{field} {test} {_literal(value)}"
    return f"NOT ({text})" if condition.negated else text


def _literal(value: str | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def among(ids: Sequence[str]) -> Iterator[str]:
    """Conditions that together let rows of these ids pass, as many in each as a statement takes well."""
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield f"id IN ({', '.join(map(_literal, ids[start : start + _IDS_PER_STATEMENT]))})"
