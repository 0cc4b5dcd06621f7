"""The gradient of one update: this process's share of the global batch, in micro-batches.

The contrast is over the global batch however it is cut. With several micro-batches a first pass without gradient
computes their vectors, the contrast of all gives the vectors' gradients, and a second pass over each micro-batch
sends those on (the idea of GradCache, arXiv 2101.06983). Every micro-batch has its own seed, which depends on its
place in the global batch: the second pass drops the branches that the first one dropped, and no number depends on
which process computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.base import Example, Processor
from one_peace.objectives.contrast import ContrastResult, cross_modal_contrast
from one_peace.objectives.tiled_contrast import TILE, tiled_contrast
from one_peace.tasks.pretraining import Contrast, PretrainingBatch, collate_pairs
from one_peace.training.distributed import Processes
from one_peace.training.micro_batches import slot_of, slot_seed
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.recipe import PretrainRecipe

BatchSource = Callable[..., list[tuple[Example, Example]]]
"""(batch size, seed, step, rank=0, world=1) -> the pairs of one process; the same arguments give the same pairs.

The slices of all ranks, one after the other, are the batch of one process. Runs on one process may be given a source
of three arguments.
"""

COUNTS = ("anchor_correct", "partner_correct")
MASK_SEED = 7919  # so that masks are drawn unlike drop path


class Update:
    """Computes gradients of a recipe's losses, micro-batch by micro-batch."""

    def __init__(
        self,
        losses: PretrainingPass,
        recipe: PretrainRecipe,
        processors: Mapping[str, Processor],
        batches: BatchSource,
        processes: Processes,
        device: str,
    ) -> None:
        self.local, self.micro = processes.divide(recipe.batch_size, recipe.micro_batch)
        self.losses, self.recipe, self.processors, self.batches = losses, recipe, processors, batches
        self.processes, self.device = processes, torch.device(device)
        plain = processes.count == 1 and recipe.batch_size <= TILE and recipe.contrast == "published"
        tiled = partial(
            tiled_contrast,
            gather=processes.gather,
            offset=processes.rank * self.local,
            full_gradients=recipe.contrast == "full",
        )
        self.tiled = tiled
        self.contrast: Contrast = cross_modal_contrast if plain else tiled

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Adds up the gradients of update `step` -> this process's losses and counts (scalars)."""
        denoise = self.recipe.denoise_every > 0 and step % self.recipe.denoise_every == 0
        pairs = self._draw(step)
        contrast = self._contrast([anchor for anchor, _ in pairs])
        micro_batches = [
            self._collate(pairs[start : start + self.micro], step, start, denoise)
            for start in range(0, self.local, self.micro)
        ]
        if len(micro_batches) == 1:
            self._seed(step, 0)
            losses = self.losses(micro_batches[0], contrast, denoise)
            losses["total"].backward()
            return losses
        return self._cached(micro_batches, contrast, step, denoise)

    def _contrast(self, anchors: Sequence[Example]) -> Contrast:
        """The contrast over the global batch; of pairs with one caption, it may leave out each other as negatives."""
        if self.recipe.repeated_captions == "negatives":
            return self.contrast
        groups = [fingerprint(anchor) for anchor in anchors]
        if self.processes.count == 1 and len(set(groups)) == len(groups):
            return self.contrast
        return partial(self.tiled, groups=torch.tensor(groups, device=self.device))

    def _draw(self, step: int) -> list[tuple[Example, Example]]:
        recipe, processes = self.recipe, self.processes
        place = () if processes.count == 1 else (processes.rank, processes.count)
        pairs = self.batches(recipe.batch_size, recipe.seed, step, *place)
        if len(pairs) < self.local:
            raise ValueError(f"step {step}: {len(pairs)} usable pairs instead of {self.local}")
        return pairs[: self.local]

    def _collate(
        self, pairs: Sequence[tuple[Example, Example]], step: int, start: int, denoise: bool
    ) -> PretrainingBatch:
        generator = None
        if denoise:
            seed = slot_seed(self.recipe.seed * MASK_SEED, step, self._slot(start // self.micro))
            generator = torch.Generator().manual_seed(seed)
        batch = collate_pairs(pairs, self.recipe.stage, self.processors, generator)
        inputs = {m: {k: v.to(self.device) for k, v in tensors.items()} for m, tensors in batch.inputs.items()}
        return PretrainingBatch(inputs, {name: masks.to(self.device) for name, masks in batch.masks.items()})

    def _slot(self, index: int) -> int:
        return slot_of(index, self.local, self.micro, self.processes)

    def _seed(self, step: int, index: int) -> None:
        # drop path draws from the global generator
        torch.manual_seed(slot_seed(self.recipe.seed, step, self._slot(index)))

    def _cached(
        self, micro_batches: Sequence[PretrainingBatch], contrast: Contrast, step: int, denoise: bool
    ) -> dict[str, Tensor]:
        count = len(micro_batches)
        kept = _Vectors()
        with torch.no_grad():
            for index, batch in enumerate(micro_batches):
                self._seed(step, index)
                self.losses(batch, kept, False)
        leaves = kept.leaves()
        result = contrast(*leaves)
        grads = torch.autograd.grad(result.loss, leaves, allow_unused=True)
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(micro_batches):
            self._seed(step, index)
            rows = slice(index * self.micro, (index + 1) * self.micro)
            replay = _Replay(count, grads, rows)
            losses = self.losses(batch, replay, denoise)
            (losses["total"] / count).backward()
            for name, value in losses.items():
                shown = value.detach() - losses["contrast"].detach() if name == "total" else value.detach()
                sums[name] = sums[name] + shown / count if name in sums else shown / count
        sums["contrast"] = result.loss.detach()
        sums["total"] = sums["total"] + sums["contrast"]
        sums["anchor_correct"], sums["partner_correct"] = (
            result.first_to_second_correct,
            result.second_to_first_correct,
        )
        return sums


def fingerprint(example: Example) -> int:
    """A number that only equal examples share, the same in every process."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(example):
        digest.update(f"{name}{tuple(example[name].shape)}".encode())
        digest.update(example[name].contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


class _Vectors:
    """Stands in for the contrast in the first pass: keeps the vectors."""

    def __init__(self) -> None:
        self.first: list[Tensor] = []
        self.second: list[Tensor] = []
        self.temperature: Tensor | None = None

    def __call__(self, first: Tensor, second: Tensor, temperature: Tensor) -> ContrastResult:
        self.first.append(first.detach())
        self.second.append(second.detach())
        self.temperature = temperature.detach()
        zero = first.new_zeros(())
        return ContrastResult(zero, zero, zero)

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of the whole share, and the temperature, all waiting for their gradient."""
        assert self.temperature is not None
        first, second = torch.cat(self.first), torch.cat(self.second)
        return first.requires_grad_(), second.requires_grad_(), self.temperature.clone().requires_grad_()


class _Replay:
    """Stands in for the contrast in the second pass: a loss with the gradient that the contrast of all has.

    The caller averages over `count` micro-batches, hence the factor; the temperature's gradient is shared out.
    """

    def __init__(self, count: int, grads: Sequence[Any], rows: slice) -> None:
        self.count, self.grads, self.rows = count, grads, rows

    def __call__(self, first: Tensor, second: Tensor, temperature: Tensor) -> ContrastResult:
        of_first, of_second, of_temperature = self.grads
        loss = self.count * (first * of_first[self.rows]).sum() + self.count * (second * of_second[self.rows]).sum()
        zero = loss.detach() * 0.0
        return ContrastResult(loss + temperature * of_temperature, zero, zero)
