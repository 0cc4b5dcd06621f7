"""What a recipe says of the training of a sequence-to-sequence model, beside what all fine-tuning has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from one_peace.configuration import build_dataclass, within
from one_peace.objectives.sequence import SequenceLossSettings


@dataclass(frozen=True)
class SequenceRecipe:
    """How an OFA model is trained.

    loss: see `SequenceLossSettings`. dropout: of the model while it is trained. freeze_tokens: the table of words
    stays; freeze_norms: the image trunk's batch norms use and keep the statistics that they have. noise: share of the
    words that the decoder reads which are replaced at random (published for summaries). self_critical: trains captions
    that the model writes itself by their CIDEr-D, the second stage of captioning; `beams` are the captions per picture
    and `max_tokens` their longest. patches: random cells of each picture in pretraining, None for all. code_grid: side
    of the grid of image codes, None for the model's own. imagenet_statistics: pictures to be labelled are normalised by
    ImageNet's. words: `model: ofa-nano` starts at random, with at most so many words that it learns from the training
    table; None for the shipped weights.
    """

    loss: SequenceLossSettings = field(default_factory=SequenceLossSettings)
    dropout: float = 0.0
    freeze_tokens: bool = False
    freeze_norms: bool = False
    noise: float = 0.0
    self_critical: bool = False
    beams: int = 5
    max_tokens: int = 16
    patches: int | None = None
    code_grid: int | None = None
    imagenet_statistics: bool = False
    words: int | None = None

    def __post_init__(self) -> None:
        within(self, "sequence", dropout="[0, 1)", noise="[0, 1)", patches="[1, inf)", words="[260, inf)")
        if self.beams < 2:
            raise ValueError(f"sequence: captions are weighed against others: beams is at least 2, not {self.beams}")
        if self.self_critical and self.loss != SequenceLossSettings():
            raise ValueError("sequence: loss is of given targets, which self_critical has none of; leave it out")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SequenceRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        fields = dict(values)
        if "loss" in fields:
            fields["loss"] = build_dataclass(SequenceLossSettings, fields["loss"], "sequence.loss")
        return build_dataclass(cls, fields, "sequence")
