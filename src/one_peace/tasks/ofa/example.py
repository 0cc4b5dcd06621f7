"""What a sequence-to-sequence model is trained on: one example, and a batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from one_peace.generation.constraints import ROOT, Trie
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID

PromptKind = Literal["none", "source", "open"]
"""What a decoder is given before the answer: the start alone, the whole source, or the source without its end."""


@dataclass(frozen=True)
class SequenceExample:
    """One row, ready to be batched.

    source: (n,) int64 with start and end. previous, target: (length,) int64, what the decoder reads and is to write;
    `target` is padding where nothing is trained. prompt: what a generating decoder is given, start first. pixels:
    (3, height, width) or None. codes: whether the target is image codes. answers: the only sequences that may be
    written. facts: what figures and predictions need besides.
    """

    key: str
    source: Tensor
    previous: Tensor
    target: Tensor
    prompt: Sequence[int] = (BOS_ID,)
    pixels: Tensor | None = None
    codes: bool = False
    confidence: float = 1.0
    answers: Trie | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def allowed(self, vocabulary: int) -> Tensor | None:
        """(length, vocabulary) bool: what `answers` allows at each place, nothing where nothing is trained."""
        if self.answers is None:
            return None
        places = len(self.prompt) - 1
        mask = torch.zeros(len(self.target), vocabulary, dtype=torch.bool)
        node = torch.tensor([ROOT])
        for place in range(places, len(self.target)):
            mask[place] = self.answers.children(node, vocabulary)[0]
            node = self.answers.follow(node, self.target[place : place + 1])
        return mask


def with_target(
    source: Sequence[int], answer: Sequence[int] | None, kind: PromptKind = "none", *, end: bool = True
) -> dict[str, Any]:
    """The token parts of an example: `source`, `previous`, `target`, `prompt`.

    source: ids without start and end. answer: ids, None where it is not known. end: whether the answer's end is
    trained."""
    whole = [BOS_ID, *source, EOS_ID]
    prompt = {"none": whole[:1], "source": whole, "open": whole[:-1]}[kind]
    tokens = [] if answer is None else [*answer, EOS_ID] if end else list(answer)
    previous = [*prompt, *tokens[:-1]]
    target = [PAD_ID] * (len(previous) - len(tokens)) + tokens
    return {
        "source": torch.tensor(whole),
        "previous": torch.tensor(previous),
        "target": torch.tensor(target),
        "prompt": prompt,
    }


@dataclass(frozen=True)
class SequenceBatch:
    """Examples side by side, padded on the right.

    source (batch, n), previous and target (batch, length) int64; pixels (batch, 3, height, width) with pictured
    (batch,) bool, False for rows without a picture, or None for both where no row has one; codes (batch,) bool;
    confidence (batch,) float32; allowed (batch, length, vocabulary) bool or None."""

    keys: list[str]
    source: Tensor
    previous: Tensor
    target: Tensor
    pixels: Tensor | None
    pictured: Tensor | None
    codes: Tensor
    confidence: Tensor
    allowed: Tensor | None
    prompts: list[Sequence[int]]
    facts: list[Mapping[str, Any]]

    def to(self, device: torch.device) -> SequenceBatch:
        """The batch on a device."""
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def twice(self) -> SequenceBatch:
        """Every row, then every row again: what R-Drop compares."""
        doubled: dict[str, Any] = {
            f.name: torch.cat([v, v]) if isinstance(v, Tensor) else v * 2
            for f in fields(self)
            if (v := getattr(self, f.name)) is not None
        }
        return replace(self, **doubled)


def collate(examples: Sequence[SequenceExample], vocabulary: int) -> SequenceBatch:
    """Examples -> batch. `ValueError` where pictures differ in size or only some rows have given answers."""
    if not examples:
        raise ValueError("a batch needs at least one example")
    constrained = {example.answers is not None for example in examples}
    if len(constrained) > 1:
        raise ValueError("some examples of the batch have given answers and some have not")
    masks = [mask for example in examples if (mask := example.allowed(vocabulary)) is not None]
    pixels, pictured = _pictures(examples)
    return SequenceBatch(
        [example.key for example in examples],
        _padded([example.source for example in examples]),
        _padded([example.previous for example in examples]),
        _padded([example.target for example in examples]),
        pixels,
        pictured,
        torch.tensor([example.codes for example in examples]),
        torch.tensor([example.confidence for example in examples]),
        pad_sequence(masks, batch_first=True, padding_value=True) if masks else None,
        [example.prompt for example in examples],
        [example.facts for example in examples],
    )


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=PAD_ID)


def _pictures(examples: Sequence[SequenceExample]) -> tuple[Tensor | None, Tensor | None]:
    shapes = {tuple(example.pixels.shape) for example in examples if example.pixels is not None}
    if not shapes:
        return None, None
    if len(shapes) > 1:
        raise ValueError(f"pictures of one batch have the shapes {sorted(shapes)}: they must be equal")
    (shape,) = shapes
    pixels = [torch.zeros(shape) if example.pixels is None else example.pixels for example in examples]
    return torch.stack(pixels), torch.tensor([example.pixels is not None for example in examples])
