"""Dataclasses from plain values: which keys there are, of what kind their values, in which interval they lie."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def build_dataclass(cls: type[T], values: object, where: str) -> T:
    """A dataclass from a mapping of its fields, as YAML or JSON has it: lists stand for tuples, mappings for
    dataclasses.

    Raises:
        ValueError: no mapping, an unknown key (with the nearest known one), a missing key, or a value of another kind
            than the field's. The message begins with `where`.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of settings, not {values!r}")
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ValueError(f"{where}: unknown key {key!r}" + (f"; the nearest is {near[0]!r}" if near else ""))
    missing = [
        name
        for name, f in known.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    hints = get_type_hints(cls)
    fields = {}
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ValueError(f"{where}: {key} is {_kind_in_words(hints[key])}, not {value!r}")
        fields[key] = _built(value, hints[key], f"{where}.{key}")
    return cls(**fields)


def within(settings: object, where: str, **intervals: str) -> None:
    """Checks attributes by name against their intervals; of a list or a mapping every value. None passes, NaN never.

    Raises:
        ValueError: a value outside; the message has `where`, its name and the interval.
    """
    for name, interval in intervals.items():
        value = getattr(settings, name)
        if isinstance(value, Mapping):
            values = {f"{name}.{key}": one for key, one in value.items()}
        elif isinstance(value, list | tuple):
            values = {f"{name}[{number}]": one for number, one in enumerate(value)}
        else:
            values = {name: value}
        for key, one in values.items():
            if one is not None and not _lies_in(one, interval):
                raise ValueError(f"{where}: {key} is {_interval_in_words(interval)}, not {one!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        if not isinstance(value, list | tuple) or (inside[-1] is not Ellipsis and len(value) != len(inside)):
            return False
        return all(_fits(one, kind) for one, kind in zip(value, _kinds(inside, len(value)), strict=True))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inside[0]) and _fits(v, inside[1]) for k, v in value.items())
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, hint | Mapping)  # the mapping is checked when it is built
    return isinstance(value, hint)


def _built(value: Any, hint: Any, where: str) -> Any:
    """What a field of this kind holds for a value that fits: tuples and dataclasses for what stands for them."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _built(value, next(one for one in inside if _fits(value, one)), where)
    if origin is tuple:
        kinds = _kinds(inside, len(value))
        return tuple(_built(one, kind, where) for one, kind in zip(value, kinds, strict=True))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return build_dataclass(hint, value, where)
    return value


def _kinds(inside: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The kind of each item of a tuple with these arguments."""
    return inside[:1] * count if inside[-1] is Ellipsis else inside


def _kind_in_words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind_in_words(one) for one in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple:
        count = "" if inside[-1] is Ellipsis else f" of {len(inside)}"
        kinds = dict.fromkeys(_kind_in_words(kind) for kind in inside if kind is not Ellipsis)
        return f"a list{count}, each {' or '.join(kinds)}"
    if origin in (dict, Mapping):
        return "a mapping of settings" if inside[1] is Any else f"a mapping, each value {_kind_in_words(inside[1])}"
    return _NAMES.get(hint, "a mapping of settings")


def _interval_in_words(interval: str) -> str:
    if interval.endswith(", inf)"):
        return f"{'at least' if interval[0] == '[' else 'above'} {interval[1:-6]}"
    return f"in {interval}"


def _lies_in(value: Any, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
