"""Settings that must lie in an interval, written as mathematics writes it: `[0, 1)` has 0 and not 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
                raise ValueError(f"{where}: {key} must lie in {interval}, got {one!r}")


def _lies_in(value: Any, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
