"""Conditions on rows. What one means is written here once; every store translates it into its engine's words."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from math import ceil, floor, isfinite
from typing import Any, Literal, TypeAlias, get_args

from one_peace.search.records import COLUMNS, Entry, composed

Test: TypeAlias = Literal["in", ">=", "<=", "prefix", "contains", "has"]

_TESTS: dict[Any, tuple[Test, ...]] = {
    str: ("in", "prefix", "contains"),
    int: ("in", ">=", "<="),
    float | None: (">=", "<="),
    tuple[str, ...]: ("has",),
}


@dataclass(frozen=True)
class Condition:
    """What has to hold of a field of an `Entry`.

    | test       | fields     | holds if the field                          | value               |
    |------------|------------|---------------------------------------------|---------------------|
    | `in`       | text, int  | equals one of the values                    | sequence, not empty |
    | `>=`, `<=` | numbers    | is at least, at most the value              | finite number       |
    | `prefix`   | text       | begins with the value                       | text                |
    | `contains` | text       | contains the value, letter case put aside   | text                |
    | `has`      | tags       | has one of the values among its own         | sequence, not empty |

    `negated` turns it round. Of a field that is None (a picture has no duration) neither a condition holds nor its
    opposite, as in SQL.

    Raises:
        ValueError: no such field, a test that does not go with it, or a value of the wrong kind.
    """

    field: str
    test: Test
    value: Any
    negated: bool = False

    def __post_init__(self) -> None:
        kind = COLUMNS.get(self.field)
        if kind is None:
            near = get_close_matches(self.field, COLUMNS, 1) or [", ".join(COLUMNS)]
            raise ValueError(f"no field {self.field!r} to filter by; did you mean {near[0]}?")
        if self.test not in get_args(Test):
            raise ValueError(f"no test {self.test!r}; there are {', '.join(get_args(Test))}")
        if self.test not in _TESTS[kind]:
            raise ValueError(f"{self.field} cannot be tested by {self.test!r}; it takes {', '.join(_TESTS[kind])}")
        if self.test in ("in", "has"):
            if isinstance(self.value, str) or not isinstance(self.value, Sequence | frozenset | set):
                raise ValueError(f"{self.field} {self.test}: expected several values, got {self.value!r}")
            values = tuple(dict.fromkeys(self.value))
            object.__setattr__(self, "value", values)
            if not values or not all(_is(value, int if kind is int else str) for value in values):
                raise ValueError(f"{self.field} {self.test}: expected one or more of its values, got {values!r}")
        elif self.test in (">=", "<="):
            if not _is(self.value, int) and not (isinstance(self.value, float) and isfinite(self.value)):
                raise ValueError(f"{self.field} {self.test}: expected a number, got {self.value!r}")
            if kind is int:  # engines compare whole numbers with whole numbers
                object.__setattr__(self, "value", (ceil if self.test == ">=" else floor)(self.value))
        elif not _is(self.value, str):
            raise ValueError(f"{self.field} {self.test}: expected text, got {self.value!r}")

    def holds(self, entry: Entry) -> bool:
        """Whether the row passes."""
        found = getattr(entry, self.field)
        return found is not None and self._test(found) is not self.negated

    @cached_property
    def _values(self) -> frozenset[Any]:
        """To find one among many."""
        return frozenset(self.value)

    def _test(self, found: Any) -> bool:
        match self.test:
            case "in":
                return found in self._values
            case ">=":
                return bool(found >= self.value)
            case "<=":
                return bool(found <= self.value)
            case "prefix":
                return bool(found.startswith(self.value))
            case "contains":
                return self.value.lower() in found.lower()
            case "has":
                return any(value in found for value in self.value)


Filter: TypeAlias = Sequence[Condition]
"""Rows of which every condition holds; an empty one lets all pass."""


def passes(where: Filter, entry: Entry) -> bool:
    """Whether all conditions hold."""
    return all(condition.holds(entry) for condition in where)


@dataclass(frozen=True)
class Filters:
    """What answers of a library may be restricted by; None and an empty tuple stand for no restriction.

    All have to hold; of a tuple one value has to. `folder` is a path, its subfolders count; a library takes a relative
    one from the working directory, or where nothing is below that from the folder that holds the library. `caption` is
    looked for in the caption, letter case put aside. Sizes are in bytes, durations in seconds, `after` and `before` (of
    the file's last change, and including that moment) in nanoseconds since 1970.

    Raises:
        ValueError: a value of the wrong kind, or a range that holds nothing.
    """

    modality: tuple[str, ...] = ()
    branch: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    folder: str | None = None
    caption: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    after: int | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        for low, high in (("min_size", "max_size"), ("min_duration", "max_duration"), ("after", "before")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"no value lies between {low} and {high}, which is less; exchange them")
        self.conditions()

    def within(self, modality: str | Sequence[str] | None, folder: str | os.PathLike[str] | None) -> Filters:
        """The same with another modality, or several, and another folder; None leaves what there is."""
        given: dict[str, Any] = {}
        if modality is not None:
            given["modality"] = (modality,) if isinstance(modality, str) else tuple(modality)
        if folder is not None:
            given["folder"] = os.fspath(folder)
        return replace(self, **given)

    def conditions(self) -> tuple[Condition, ...]:
        """The same as stores take it."""
        folder = None if self.folder is None else os.path.join(self.folder, "")
        tags = tuple(map(_composed, self.tag)) if isinstance(self.tag, tuple) else self.tag
        asked: tuple[tuple[str, Test, Any, bool], ...] = (
            ("modality", "in", self.modality, False),
            ("branch", "in", self.branch, False),
            ("tags", "has", tags, False),
            ("item", "in", self.item, False),
            ("item", "in", self.exclude, True),
            ("path", "prefix", folder, False),
            ("caption", "contains", _composed(self.caption), False),
            ("size", ">=", self.min_size, False),
            ("size", "<=", self.max_size, False),
            ("duration", ">=", self.min_duration, False),
            ("duration", "<=", self.max_duration, False),
            ("mtime", ">=", self.after, False),
            ("mtime", "<=", self.before, False),
        )
        return tuple(Condition(*one) for one in asked if one[2] is not None and one[2] != ())


def _composed(value: Any) -> Any:
    """Text in the form that libraries keep; what is none is left for `Condition` to refuse."""
    return composed(value) if isinstance(value, str) else value


def _is(value: Any, kind: type) -> bool:
    """As engines see it: integers have 64 bits, booleans are none, and half a surrogate pair is no text."""
    if isinstance(value, str):
        return kind is str and not any("\ud800" <= character <= "\udfff" for character in value)
    return kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
