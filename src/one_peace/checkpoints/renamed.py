"""Tensors under other names, still read only when used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor


class Renamed(Mapping[str, list[Tensor]]):
    """Some tensors of a source, each as a list of pieces."""

    def __init__(self, source: Mapping[str, list[Tensor]], names: Mapping[str, str]) -> None:
        """`names`: the name that a tensor has here -> its own."""
        self._source, self._names = source, names

    def __getitem__(self, name: str) -> list[Tensor]:
        return self._source[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
