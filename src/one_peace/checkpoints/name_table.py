"""A table of tensor names, official ones and ours, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

FIELDS = {
    "i": r"(?P<i>\d+)",
    "j": r"(?P<j>\d+)",
    "p": r"(?P<p>weight|bias)",
    "rest": r"(?P<rest>.+)",
}


@dataclass(frozen=True)
class Target:
    """Where an official tensor goes: our tensor, and which part of its rows (None: all of it)."""

    name: str
    part: int | None = None


class Kind(Enum):
    """Why an official tensor has no counterpart in our model."""

    BUFFER = "computed from the configuration"
    UNUSED = "never read by the published model"


class NameTable:
    """Rows of (official pattern, our pattern[, part of our tensor's rows]).

    In a pattern `{i}` is a number, `{j}` one that is one higher on the official side, `{p}` is `weight` or `bias`, and
    `fields` are further ones with their regular expressions. The first row that matches counts.
    """

    def __init__(self, rows: Sequence[tuple[Any, ...]], fields: Mapping[str, str] | None = None) -> None:
        known = FIELDS | dict(fields or {})
        self._rows = [
            (_compile(official, known), official, _compile(native, known), native, part[0] if part else None)
            for official, native, *part in rows
        ]

    def to_native(self, official: str) -> Target | None:
        """Our name for an official one, None for a name that is not in the table."""
        for pattern, _, _, template, part in self._rows:
            if match := pattern.fullmatch(official):
                return Target(_fill(template, match.groupdict(), -1), part)
        return None

    def to_official(self, native: str) -> list[str]:
        """The official names that make up one of our tensors, in the order of its rows; empty for an unknown name."""
        names = []
        for _, template, pattern, _, part in self._rows:
            if match := pattern.fullmatch(native):
                names.append(_fill(template, match.groupdict(), +1))
                if part is None:
                    break
        return names


def _compile(template: str, fields: Mapping[str, str]) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(fields[p] if k % 2 else re.escape(p) for k, p in enumerate(pieces)))


def _fill(template: str, values: dict[str, str], shift: int) -> str:
    if "j" in values:
        values = {**values, "j": str(int(values["j"]) + shift)}
    return template.format(**values)
