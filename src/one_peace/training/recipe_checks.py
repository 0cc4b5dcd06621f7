"""Values of a recipe as its dataclasses want them: a wrong one is named with its key, and what should stand there."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from one_peace.models.one_peace.config import build_dataclass

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def build_part(cls: type[T], values: object, where: str) -> T:
    """A dataclass from the mapping under one key of a recipe.

    Raises:
        ValueError: no mapping, an unknown or missing key, or a value of another kind than the key's.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is a mapping of settings, not {values!r}")
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            raise ValueError(f"{where}: {key} is {_in_words(hints[key])}, not {value!r}")
    part: T = build_dataclass(cls, values, where)
    return part


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin is tuple:
        every = isinstance(value, list | tuple) and all(_fits(one, inside[0]) for one in value)
        return every and (inside[-1] is Ellipsis or len(value) == len(inside))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inside[0]) and _fits(v, inside[1]) for k, v in value.items())
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if dataclasses.is_dataclass(hint):
        return True  # checked where it is built
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(one) for one in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple:
        count = "" if inside[-1] is Ellipsis else f" of {len(inside)}"
        return f"a list{count}, each {_in_words(inside[0])}"
    if origin in (dict, Mapping):
        return "a mapping of settings" if inside[1] is Any else f"a mapping, each value {_in_words(inside[1])}"
    return _NAMES.get(hint, "a mapping of settings")
