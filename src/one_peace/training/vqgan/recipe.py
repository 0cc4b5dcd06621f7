"""What a recipe says of the training of a coder of pictures, beside what all training from tables has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from one_peace.configuration import build_dataclass, within


@dataclass(frozen=True)
class CodingRecipe:
    """How a VQGAN is trained.

    crop: side in pixels of the squares that are cut out of the pictures to learn from, None for whole pictures. They
    are mirrored in half of all cases. uncoded: in so many updates of a fresh model the decoder reads the encoder's
    features as they are; then the codebook is made of clusters of them (`codebook.py`). usage: weight of the divergence
    of a place's codes from all being equally probable. temperature: of the Gumbel softmax in the first update with
    codes; it falls, by the same factor in every update, to `coldest`, and has got there after the share `cooling` of
    these updates.
    """

    crop: int | None = None
    uncoded: int = 0
    usage: float = 5e-4
    temperature: float = 1.0
    coldest: float = 0.0625
    cooling: float = 0.6

    def __post_init__(self) -> None:
        within(self, "coding", crop="[1, inf)", uncoded="[0, inf)", usage="[0, inf)", cooling="(0, 1]")
        if not 0 < self.coldest <= self.temperature:
            raise ValueError(
                f"coding: temperature={self.temperature} falls to coldest={self.coldest}, which is above 0"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodingRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        return build_dataclass(cls, values, "coding")

    def temperature_at(self, step: int, steps: int) -> float:
        """The temperature of update `step` (from 0) of so many."""
        progress = min(1.0, max(0, step - self.uncoded) / max(1.0, self.cooling * (steps - self.uncoded)))
        return float(self.temperature * (self.coldest / self.temperature) ** progress)
