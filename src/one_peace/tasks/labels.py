"""Names of classes and their numbers."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from one_peace.errors import InputError


class LabelMap:
    """Distinct names in the order of their numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("a label map needs at least one name")
        self.names = tuple(names)
        self._numbers = {name: number for number, name in enumerate(names)}
        if len(self._numbers) < len(self.names):
            twice = next(name for k, name in enumerate(self.names) if self._numbers[name] != k)
            raise ValueError(f"label {twice!r} stands twice in the label map")

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int:
        """The number of a class; `ValueError` names the nearest known one."""
        try:
            return self._numbers[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.6)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"{name!r} is not among the {len(self)} labels{hint}") from None

    def find(self, value: str, first: int = 0) -> int:
        """The number of a class given by its name, or by its number in a file that counts from `first`.

        A number counts as such where it is no name. `ValueError` as of `number`.
        """
        if value not in self._numbers and value.isdecimal() and first <= int(value) < len(self) + first:
            return int(value) - first
        return self.number(value)

    @classmethod
    def of(cls, values: Iterable[str]) -> LabelMap:
        """The labels that occur, sorted."""
        return cls(sorted(set(values)))

    @classmethod
    def read(cls, path: Path) -> LabelMap:
        """A JSON list of names, a JSON object name -> number or number -> name(s), or a text file with one per line.

        Raises:
            InputError: the file cannot be read, or its numbers are not 0, 1, 2 ...
        """
        try:
            content = path.read_text(encoding="utf-8-sig")
            values = json.loads(content) if path.suffix == ".json" else content.split("\n")
        except (OSError, ValueError) as error:
            raise InputError(str(path), f"is no label map: {error}") from error
        if isinstance(values, dict):
            values = _of_mapping(values, path)
        if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
            raise InputError(str(path), "is no label map: neither names in a list nor names with their numbers")
        names = [str(value).strip() for value in values if str(value).strip()]
        try:
            return cls(names)
        except ValueError as error:
            raise InputError(str(path), str(error)) from error


def _of_mapping(values: dict[str, object], path: Path) -> list[str]:
    """Names by number, from name -> number (ans2label files) or number -> name or names (the first one counts)."""
    if all(isinstance(value, int) for value in values.values()):
        numbered = {int(str(number)): name for name, number in values.items()}
    else:
        try:
            numbered = {int(k): str(v[0] if isinstance(v, list) and v else v) for k, v in values.items()}
        except ValueError as error:
            raise InputError(str(path), "maps neither names to numbers nor numbers to names") from error
    if sorted(numbered) != list(range(len(values))):
        raise InputError(str(path), f"its {len(values)} labels are not numbered 0 to {len(values) - 1}")
    return [numbered[number] for number in range(len(numbered))]
