"""Gradients of sequence-to-sequence losses: means over all tokens of the global batch, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.encoder import draw_patches
from one_peace.models.ofa.trunk import STRIDE
from one_peace.objectives.sequence import kept_tokens, sequence_loss
from one_peace.tasks.ofa.example import SequenceExample, collate
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.micro_batches import slot_seed
from one_peace.training.ofa.forward_pass import OfaPass
from one_peace.training.ofa.recipe import SequenceRecipe

Groups = Mapping[str, list[SequenceExample]]
"""Examples of an update by what their loss is called; each group has a mean of its own, and the means are added."""


class Part(Protocol):
    """A micro-batch whose number of tokens is known and whose loss is yet to be computed."""

    tokens: int

    def loss(self) -> dict[str, Tensor]:
        """Sums over the tokens: `total`, which is minimised, and others for the log."""
        ...


Prepare = Callable[[list[SequenceExample], str, int], Part]
"""A micro-batch of a group in an update (from 0)."""


class SequenceUpdate:
    """The gradients of an update, for the loop."""

    def __init__(
        self,
        draw: Callable[[int], Groups],
        prepare: Prepare,
        recipe: FinetuneRecipe,
        processes: Processes,
        device: torch.device,
    ) -> None:
        """`draw` gives this process's examples of an update."""
        self.local, self.micro = processes.divide(recipe.batch_size, recipe.micro_batch)
        self.draw, self.prepare, self.recipe = draw, prepare, recipe
        self.processes, self.device = processes, device

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Adds up the gradients of update `step` -> this process's share of the mean losses."""
        parts: list[tuple[str, Part]] = []
        slots: list[int] = []
        groups = self.draw(step)
        share = self.local // self.micro
        for group, (name, examples) in enumerate(groups.items()):
            # A row may give several examples, and several rows one. Cut in proportion, the groups of all processes
            # have the micro-batches that they have on one; these are numbered over all, one group after the other.
            bounds = [number * len(examples) // share for number in range(share + 1)]
            for number, (start, end) in enumerate(pairwise(bounds)):
                if start < end:
                    slots.append((group * self.processes.count + self.processes.rank) * share + number)
                    self._seed(step, slots[-1])
                    parts.append((name, self.prepare(examples[start:end], name, step)))
        counts = {name: self._all_tokens(parts, name) for name in groups}
        summed: dict[str, Tensor] = {}
        for slot, (name, part) in zip(slots, parts, strict=True):
            self._seed(step, slot)
            # Sharding averages the gradients of the processes, and the log averages what they tell.
            losses = {key: value * (self.processes.count / counts[name]) for key, value in part.loss().items()}
            losses["total"].backward()
            if len(groups) > 1:
                losses[f"total_{name}"] = losses["total"]
            for key, value in losses.items():
                summed[key] = summed.get(key, torch.zeros((), dtype=torch.float64)) + value.detach().double().cpu()
        return summed

    def _all_tokens(self, parts: Sequence[tuple[str, Part]], wanted: str) -> float:
        own = sum(part.tokens for name, part in parts if name == wanted)
        return max(1.0, float(self.processes.sum(torch.tensor([float(own)], dtype=torch.float64))))

    def _seed(self, step: int, slot: int) -> None:
        """Dropout, drop path and patches depend on the update and the place in it alone."""
        torch.manual_seed(slot_seed(self.recipe.seed, step, slot))


class TargetPart:
    """Targets that are given: cross entropy with what the recipe adds to it."""

    def __init__(
        self,
        logits: OfaPass,
        examples: list[SequenceExample],
        recipe: SequenceRecipe,
        update: int,
        device: torch.device,
        *,
        patches: int | None = None,
        token_range: tuple[int, int] | None = None,
    ) -> None:
        """`update` counts from 1. patches: random cells of each picture, None for all. token_range: as of
        `sequence_loss`."""
        self.logits, self.examples, self.recipe, self.update = logits, examples, recipe, update
        self.device, self.patches, self.token_range = device, patches, token_range
        trained = sum(self._trained(example) for example in examples)
        twice = 2 if recipe.loss.consistency else 1
        self.tokens = kept_tokens(twice * trained, recipe.loss, update)

    def _trained(self, example: SequenceExample) -> int:
        target = example.target[self.recipe.loss.skip_first :]
        kept = target != PAD_ID
        return int((kept & (target != EOS_ID)).sum() if self.recipe.loss.skip_end else kept.sum())

    def loss(self) -> dict[str, Tensor]:
        model = self.logits.model
        batch = collate(self.examples, model.config.vocabulary)
        if self.recipe.loss.consistency:
            batch = batch.twice()
        drawn = None
        if self.patches is not None and batch.pixels is not None:
            height, width = (-(-side // STRIDE) for side in batch.pixels.shape[2:])
            generator = torch.Generator().manual_seed(torch.initial_seed())
            drawn = draw_patches(len(batch.pixels), height * width, self.patches, generator).to(self.device)
        batch = batch.to(self.device)
        found = sequence_loss(
            self.logits(batch, drawn),
            batch.target,
            self.recipe.loss,
            pad=PAD_ID,
            end=EOS_ID,
            allowed=batch.allowed,
            token_range=self.token_range,
            confidence=batch.confidence,
            update=self.update,
        )
        assert found.tokens == self.tokens
        return {"total": found.total, "nll": found.nll}
