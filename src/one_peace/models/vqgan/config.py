"""The shape of a VQGAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from one_peace.configuration import build_dataclass, within

SIZES = ("codes", "code_width", "width", "multipliers", "blocks", "groups")


@dataclass(frozen=True)
class VqganConfig:
    """A coder of pictures.

    codes: entries of the codebook. code_width: width of an entry. width: channels at full resolution; at level i of
    halved resolutions they are `width * multipliers[i]`. blocks: residual blocks per level. attention: levels with
    attention. groups: of channels that every norm takes together; with as many as there are channels a norm forgets
    how bright each was. One code stands for a square of `patch` pixels.
    """

    codes: int = 8192
    code_width: int = 256
    width: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (3,)
    groups: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        object.__setattr__(self, "attention", tuple(self.attention))
        if not self.multipliers:
            raise ValueError("config: multipliers are empty; a VQGAN has one level at least")
        within(self, "config", **dict.fromkeys(SIZES, "[1, inf)"))
        if self.width % self.groups:
            raise ValueError(f"width must be a multiple of {self.groups} (the norms' groups), got {self.width}")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention):
            raise ValueError(f"attention names levels 0 to {len(self.multipliers) - 1}, got {self.attention}")

    @property
    def patch(self) -> int:
        """Pixels along a side that one code stands for."""
        return 2 ** (len(self.multipliers) - 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VqganConfig:
        """Inverse of `to_dict`. `ValueError` names unknown keys and the nearest known one."""
        return build_dataclass(cls, values, "config")
