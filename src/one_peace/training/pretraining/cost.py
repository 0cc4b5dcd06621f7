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
from dataclasses import dataclass

import torch

from one_peace.checkpoints.one_peace.names import bare_name, modality_of
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage
from one_peace.training.cost import Cost, FlopCount, KeptMemory, count_parameters, memory_of_weights
from one_peace.training.distributed import Processes, prepare_model, shards_over
from one_peace.training.initial_values import empty_model
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.recipe import EngineRecipe

PAIRS = 4  # in the larger of the batches that are counted; the smaller one has half of them


def pretraining_cost(
    config: OnePeaceConfig,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    batch_size: int,
    micro_batch: int | None = None,
    denoise: bool = True,
    engine: EngineRecipe | None = None,
    devices: int = 1,
) -> Cost:
    """The cost of a step with `batch_size` pairs like the given ones, `micro_batch` of them at once on each device.

    Raises:
        ValueError: fewer than `PAIRS` pairs, or what cannot be divided among the devices.
    """
    if len(pairs) < PAIRS:
        raise ValueError(f"cost is counted with {PAIRS} pairs, and there are {len(pairs)}")
    engine = dataclasses.replace(engine or EngineRecipe(), compile=False)
    if batch_size % devices:
        raise ValueError(f"batch_size={batch_size} is no multiple of the {devices} devices")
    shards = shards_over(devices, engine.shard_over)
    local = batch_size // devices
    at_once = min(micro_batch or local, local)

    sides = {
        name: [1 + processors[name].length(pair[side]) for pair in pairs]
        for side, name in enumerate((stage.anchor, stage.partner))
    }
    tokens = {name: round(sum(lengths) / len(pairs) * batch_size) for name, lengths in sides.items()}
    typical, longest = _chosen(pairs, [sum(both) for both in zip(*sides.values(), strict=True)])
    flops = flops_at_once(config, stage, processors, typical, at_once, denoise)
    kept = _points(config, stage, processors, longest, denoise, engine)
    activations = _bytes({place: point.kept for place, point in kept.items()}, config.layers, at_once)
    if engine.recompute:  # and one block's, while it goes backward
        whole = dataclasses.replace(engine, recompute=False)
        block = _measure(config, 1, stage, processors, longest, denoise, whole).largest_block
        activations += block * at_once // len(longest)
    model = empty_model(config)
    freeze_for_stage(model, stage)
    memory = memory_of_weights(model, PretrainingPass.blocks, engine, shards) | {"activations": activations}
    return Cost(count_parameters(model, part_of), tokens, flops * batch_size // at_once, memory, devices)


def flops_at_once(
    config: OnePeaceConfig,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    two: Sequence[tuple[Example, Example]],
    at_once: int,
    denoise: bool = True,
) -> int:
    """The arithmetic of so many pairs like the given two, forward and backward, that go through the model at once."""
    points = _points(config, stage, processors, two, denoise, EngineRecipe())
    return _flops({place: point.flops for place, point in points.items()}, config.layers, at_once)


def part_of(name: str) -> str:
    """The part that a parameter is in: shared attention, a modality's own, the decoder."""
    modality = modality_of(bare_name(name))
    return "decoder" if name.startswith("decoder.") else modality or "shared attention and norms"


def _chosen(
    pairs: Sequence[tuple[Example, Example]], lengths: Sequence[int]
) -> tuple[list[tuple[Example, Example]], list[tuple[Example, Example]]]:
    """Two pairs of about mean length, and the two longest."""
    mean = sum(lengths) / len(lengths)
    order = sorted(range(len(pairs)), key=lambda i: lengths[i])
    typical = sorted(order, key=lambda i: abs(lengths[i] - mean))
    return [pairs[i] for i in typical[:2]], [pairs[i] for i in order[-2:]]


@dataclass(frozen=True)
class _Measured:
    """One step of a shallow model: flops, bytes kept for the backward pass, and the most that one pass through one
    block keeps of them."""

    flops: int
    kept: int
    largest_block: int


def _points(
    config: OnePeaceConfig,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    two: Sequence[tuple[Example, Example]],
    denoise: bool,
    engine: EngineRecipe,
) -> dict[tuple[int, int], _Measured]:
    """Steps by (layers, pairs): one or two blocks, the two pairs once or twice, so that all hold equal sequences."""
    places = ((1, [*two]), (2, [*two]), (1, [*two, *two]))
    return {
        (layers, len(some)): _measure(config, layers, stage, processors, some, denoise, engine)
        for layers, some in places
    }


def _measure(
    config: OnePeaceConfig,
    layers: int,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    denoise: bool,
    engine: EngineRecipe,
) -> _Measured:
    model = OnePeaceForPretraining(dataclasses.replace(config, layers=layers, drop_path=0.0)).train()
    freeze_for_stage(model, stage)
    losses = prepare_model(PretrainingPass(model, stage), engine, Processes(), "cpu")
    batch = collate_pairs(pairs, stage, processors, torch.Generator().manual_seed(0))
    with FlopCount() as counter:
        with KeptMemory(model, model.encoder.fusion.blocks) as kept:
            result = losses(batch, cross_modal_contrast, denoise)
        result["total"].backward()
    return _Measured(counter.total, kept.most, kept.largest_block)


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
