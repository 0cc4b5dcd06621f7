"""Stacks of transformer blocks, as the configurations of all families have them."""

from __future__ import annotations

from typing import Protocol

from one_peace.configuration import within


class Heads(Protocol):
    """The config of attention layers."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...


class Blocks(Heads, Protocol):
    """The config of a stack of transformer blocks."""

    @property
    def layers(self) -> int: ...
    @property
    def ffn_width(self) -> int: ...


def check_blocks(config: Blocks, where: str) -> None:
    """`ValueError` for blocks that cannot be built."""
    within(config, where, width="[1, inf)", layers="[1, inf)", heads="[1, inf)", ffn_width="[1, inf)")
    check_heads(config, where)


def check_heads(config: Heads, where: str) -> None:
    """`ValueError` for a width that heads do not divide."""
    if config.width % config.heads:
        raise ValueError(f"{where}: width {config.width} is not a multiple of heads {config.heads}")
