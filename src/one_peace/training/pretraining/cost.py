"""What a step of pretraining on pairs costs: parameters, tokens, arithmetic and memory.

Arithmetic and activations are counted, not estimated from formulas, so that they hold for any modality: two pairs go
through models of the full width but one or two blocks, in small batches on the CPU, and the counts are extended to the
depth and batch asked for. That is exact for what grows with the number of blocks and with the batch or its square,
which is everything in the model. Arithmetic is that of pairs of mean length. Memory is that of the longest ones, since
batches are of pairs of similar length, and each has to find room.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from one_peace.checkpoints.one_peace.names import bare_name, modality_of
from one_peace.data.loading import Pair
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage
from one_peace.training.cost import Cost, FlopCount, KeptMemory, count_parameters, memory_of_weights
from one_peace.training.distributed import Processes
from one_peace.training.forward_pass import prepare_model, shards_over
from one_peace.training.initial_values import empty_model
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.recipe import EngineRecipe

PAIRS = 4  # in the larger of the batches that are counted; the smaller one has half of them


@dataclass(frozen=True)
class PretrainingStep:
    """A step of the model of `config` in a stage, with or without the denoising losses, as an engine runs it."""

    config: OnePeaceConfig
    stage: PretrainingStage
    processors: Mapping[str, Processor]
    denoise: bool = True
    engine: EngineRecipe = field(default_factory=EngineRecipe)

    def cost(self, pairs: Sequence[Pair], batch_size: int, micro_batch: int | None = None, devices: int = 1) -> Cost:
        """The cost of `batch_size` pairs like the given ones, `micro_batch` of them at once on each device.

        Raises:
            ValueError: fewer than `PAIRS` pairs, or what cannot be divided among the devices.
        """
        if len(pairs) < PAIRS:
            raise ValueError(f"cost is counted with {PAIRS} pairs, and there are {len(pairs)}")
        if batch_size % devices:
            raise ValueError(f"batch_size={batch_size} is no multiple of the {devices} devices")
        shards = shards_over(devices, self.engine.shard_over)
        local = batch_size // devices
        at_once = min(micro_batch or local, local)

        sides = {
            name: [1 + self.processors[name].length(pair[side]) for pair in pairs]
            for side, name in enumerate((self.stage.anchor, self.stage.partner))
        }
        tokens = {name: round(sum(lengths) / len(pairs) * batch_size) for name, lengths in sides.items()}
        typical, longest = _chosen(pairs, [sum(both) for both in zip(*sides.values(), strict=True)])
        model = empty_model(self.config)
        freeze_for_stage(model, self.stage)
        memory = memory_of_weights(model, PretrainingPass.blocks, self.engine, shards)
        memory["activations"] = self._activations(longest, at_once)
        flops = self.flops(typical, at_once) * batch_size // at_once
        return Cost(count_parameters(model, part_of), tokens, flops, memory, devices)

    def flops(self, two: Sequence[Pair], at_once: int) -> int:
        """The arithmetic of so many pairs like the given two, forward and backward, that go through the model at once.

        It does not depend on the engine: what `recompute` does a second time does not count.
        """
        points = dataclasses.replace(self, engine=EngineRecipe())._points(two)
        return _flops({place: point.flops for place, point in points.items()}, self.config.layers, at_once)

    def _activations(self, two: Sequence[Pair], at_once: int) -> int:
        """Bytes that are kept for the backward pass of so many pairs like these two."""
        points = self._points(two)
        kept = _bytes({place: point.kept for place, point in points.items()}, self.config.layers, at_once)
        if self.engine.recompute:  # and one block's, while it goes backward
            whole = dataclasses.replace(self, engine=dataclasses.replace(self.engine, recompute=False))
            kept += whole._measure(1, two).largest_block * at_once // len(two)
        return kept

    def _points(self, two: Sequence[Pair]) -> dict[tuple[int, int], _Measured]:
        """Steps by (layers, pairs): one or two blocks, the two pairs once or twice: all hold equal sequences."""
        places = ((1, [*two]), (2, [*two]), (1, [*two, *two]))
        return {(layers, len(some)): self._measure(layers, some) for layers, some in places}

    def _measure(self, layers: int, pairs: Sequence[Pair]) -> _Measured:
        # any values will do: zeros are drawn in a moment, random ones at 4B in minutes
        shallow = empty_model(dataclasses.replace(self.config, layers=layers, drop_path=0.0))
        model = shallow.to_empty(device="cpu").train()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        freeze_for_stage(model, self.stage)
        engine = dataclasses.replace(self.engine, compile=False, shard_over=None)
        losses = prepare_model(PretrainingPass(model, self.stage), engine, Processes(), "cpu")
        batch = collate_pairs(pairs, self.stage, self.processors, torch.Generator().manual_seed(0))
        with FlopCount() as counter:
            with KeptMemory(model, model.encoder.fusion.blocks) as kept:
                result = losses(batch, cross_modal_contrast, self.denoise)
            result["total"].backward()
        return _Measured(counter.total, kept.most, kept.largest_block)


def part_of(name: str) -> str:
    """The part that a parameter is in: shared attention, a modality's own, the decoder."""
    modality = modality_of(bare_name(name))
    return "decoder" if name.startswith("decoder.") else modality or "shared attention and norms"


@dataclass(frozen=True)
class _Measured:
    """One step of a shallow model: flops, bytes kept for the backward pass, and the most that one pass through one
    block keeps of them."""

    flops: int
    kept: int
    largest_block: int


def _chosen(pairs: Sequence[Pair], lengths: Sequence[int]) -> tuple[list[Pair], list[Pair]]:
    """Two pairs of about mean length, and the two longest."""
    mean = sum(lengths) / len(lengths)
    order = sorted(range(len(pairs)), key=lambda i: lengths[i])
    typical = sorted(order, key=lambda i: abs(lengths[i] - mean))
    return [pairs[i] for i in typical[:2]], [pairs[i] for i in order[-2:]]


def _flops(points: Mapping[tuple[int, int], int], layers: int, batch: int) -> int:
    """From (layers, batch) = (1, b), (2, b), (1, 2 b) to any: blocks cost alike, the rest `p b + q b^2`."""
    half = PAIRS // 2
    small, large = points[1, half], points[1, PAIRS]
    quadratic = (large - 2 * small) / (2 * half * half)
    linear = (small - quadratic * half * half) / half
    return round(linear * batch + quadratic * batch * batch + _block(points) * (layers - 1) * batch)


def _bytes(points: Mapping[tuple[int, int], int], layers: int, batch: int) -> int:
    """The same for what is kept: the rest is `c + p b`, since contrast and denoising keep no square of the batch."""
    half = PAIRS // 2
    small, large = points[1, half], points[1, PAIRS]
    linear = (large - small) / half
    return round(small + linear * (batch - half) + _block(points) * (layers - 1) * batch)


def _block(points: Mapping[tuple[int, int], int]) -> float:
    """What a block costs, per pair."""
    return (points[2, PAIRS // 2] - points[1, PAIRS // 2]) / (PAIRS // 2)
