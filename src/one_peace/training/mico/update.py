"""MiCo's gradient of one update: whose clips, which negatives, and what processes tell each other.

What an update is made of depends on the seed, its number and the place in the global batch alone: clips, augmentation,
hidden words, negatives. So any number of processes computes the same, but for what dropout and drop path leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from one_peace.data.mixture import CYCLE, interleave, shares_of
from one_peace.data.permutation import mix
from one_peace.models.mico.config import branch_of
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.tower import TowerBlock
from one_peace.tasks.mico.clips import ClipReader, MiCoExample
from one_peace.tasks.mico.pretraining import MiCoBatch, MiCoTask, Parts, mico_losses
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import Examples
from one_peace.training.forward_pass import ForwardPass
from one_peace.training.mico.recipe import MiCoRecipe

Uniform = Callable[[int], Tensor]
"""A number of rows -> as many numbers from 0 to 1, another time others."""


class MiCoPass(ForwardPass):
    """The losses of a batch. Of the layers only the tower's are sharded one by one: those of the text model are also
    entered to project memories, which sharding would not see."""

    model: MiCoModel
    others = ("embed",)
    blocks = (TowerBlock,)

    def __init__(self, model: MiCoModel, processes: Processes) -> None:
        super().__init__(model)
        self.processes = processes

    def forward(self, batch: MiCoBatch, tasks: Sequence[MiCoTask], uniform: Uniform) -> dict[str, Tensor]:
        rows = len(next(iter(batch.captions.values())))
        offset = self.processes.rank * rows
        share = slice(offset, offset + rows)

        def draw(weights: Tensor) -> Tensor:
            return draw_by(weights, uniform(self.processes.count * rows)[share].to(weights.device))

        with self.precision:
            return mico_losses(self.model, batch, tasks, draw, self._gather, offset, self._count)

    def embed(self, inputs: Mapping[str, Mapping[str, Tensor]], parts: Parts) -> Tensor:
        """Unit-length embeddings (batch, dim) of inputs by modality, or of texts."""
        with self.precision:
            if "text" in inputs:
                return self.model.embed("text", inputs["text"])
            pooled: dict[str, Tensor] = {
                branch_of(name): self.model.pool(branch_of(name), self.model.encode(name, given))
                for name, given in inputs.items()
                if branch_of(name) in parts
            }
            return self.model.project(parts, pooled)

    def _gather(self, rows: Tensor) -> Tensor:
        return self.processes.gather_trained(rows) if rows.requires_grad else self.processes.gather(rows)

    def _count(self, words: Tensor) -> Tensor:
        counted = torch.tensor([self.processes.mean({"words": words})["words"]])
        return counted[0].to(words.device)


def draw_by(weights: Tensor, uniform: Tensor) -> Tensor:
    """A candidate for each row of weights (rows, candidates), by a number from 0 to 1 each -> (rows,) int64."""
    sums = weights.double().cumsum(dim=1)
    target = uniform.double()[:, None] * sums[:, -1:]
    found = torch.searchsorted(sums, target, right=True).squeeze(1)
    # rounding may end beyond the last candidate that has a weight
    last = (weights > 0).long().mul(torch.arange(weights.shape[1], device=weights.device)).amax(dim=1)
    return torch.minimum(found, last)


class ClipBatches:
    """Which source an update takes its clips from, and which clips: sources take turns by weight."""

    def __init__(self, recipe: MiCoRecipe, sources: Mapping[str, Examples[MiCoExample]]) -> None:
        self.names, self.sources, self.size = list(sources), sources, recipe.batch_size
        weights = {name: recipe.sources[name].weight for name in self.names}
        self.shares = shares_of(self.names, weights)
        self.pattern = interleave(self.shares)

    def name(self, step: int) -> str:
        """The source of an update."""
        return self.names[int(self.pattern[step % CYCLE])]

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[MiCoExample]:
        """The clips of one process in an update."""
        cycle, slot = divmod(step, CYCLE)
        number = int(self.pattern[slot])
        turn = cycle * int(self.shares[number]) + int(np.sum(self.pattern[:slot] == number))
        return self.sources[self.names[number]].batch(self.size, turn, rank, world)


class MiCoUpdate:
    """Computes gradients of a recipe's losses; a process takes its share of the batch at once."""

    def __init__(
        self,
        losses: MiCoPass,
        recipe: MiCoRecipe,
        readers: Mapping[str, ClipReader],
        batches: ClipBatches,
        processes: Processes,
        device: str,
    ) -> None:
        processes.divide(recipe.batch_size)  # every process has as many clips
        self.losses, self.recipe, self.readers, self.batches = losses, recipe, readers, batches
        self.processes, self.device = processes, torch.device(device)

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Adds up the gradients of update `step` -> its losses, by source and name, and `total`."""
        processes, name = self.processes, self.batches.name(step)
        examples = self.batches.batch(step, processes.rank, processes.count)
        batch = self.readers[name].collate(examples, whole=processes.count > 1).to(self.device)
        generator = torch.Generator().manual_seed(mix(self.recipe.seed, "negatives", step) >> 1)
        torch.manual_seed(mix(self.recipe.seed, "dropout", step, processes.rank) >> 1)
        losses = self.losses(batch, self.recipe.sources[name].tasks, partial(_uniform, generator))
        losses["total"].backward()
        return {key if key == "total" else f"{name}/{key}": value.detach() for key, value in losses.items()}


def _uniform(generator: torch.Generator, rows: int) -> Tensor:
    return torch.rand(rows, generator=generator)
