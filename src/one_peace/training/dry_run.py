"""What a run would cost, told before it starts: parameters, tokens, arithmetic and memory of one step.

Arithmetic and activations are counted, not estimated from formulas, so that they hold for any modality: the first
pairs of the recipe's own data go through models of the full width but one or two blocks, in small batches on the CPU,
and the counts are extended to the depth and batch of the recipe. That is exact for what grows with the number of
blocks and with the batch or its square, which is everything in the model.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from one_peace.checkpoints.names import bare_name, modality_of
from one_peace.data.manifest import Item
from one_peace.data.pairs import source_of
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.block import Block
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage
from one_peace.training.distributed import LossModule, Processes, prepare_model, shards_over
from one_peace.training.initial_values import empty_model
from one_peace.training.recipe import EngineRecipe, PretrainRecipe
from one_peace.training.run import open_batches
from one_peace.training.start import plan_model

PAIRS = 4  # to count with; the batches have half of them, and all
SAMPLE = 256  # items of the sample library that are read
MEASURED = 32  # pairs drawn for the mean length
FP32, ADAM = 4, 8  # bytes per value, and per trained value of the two moments


@dataclass(frozen=True)
class DryRun:
    """The numbers of one step of all `devices` together, and the memory that it takes on each.

    `parameters` maps a part to (trained, frozen) counts, `tokens` a modality to the tokens of the batch. `flops`
    counts matrix products and convolutions, forward and backward, two per multiplication and addition; what is
    recomputed is not counted again. `memory` is in bytes, as the recipe's engine has it: a device's share of the
    float32 `weights`, of their `gradients` and the `optimizer` state; the `working copies` of weights that are whole or
    in half precision at one time; and the `activations` kept for the backward pass of the pairs that go through
    at once.
    """

    parameters: dict[str, tuple[int, int]]
    tokens: dict[str, int]
    flops: int
    memory: dict[str, int]
    devices: int = 1

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return sum(trained for trained, _ in self.parameters.values())

    @property
    def frozen(self) -> int:
        """Number of frozen parameters."""
        return sum(frozen for _, frozen in self.parameters.values())


def plan_run(recipe: PretrainRecipe, items: Iterable[Item], devices: int = 1) -> DryRun:
    """The dry run of a recipe: reads a few of its pictures or sounds, and no weights.

    Raises:
        ValueError: the batch, or the sharding, cannot be divided among so many devices.
    """
    if recipe.batch_size % devices:
        raise ValueError(f"batch_size={recipe.batch_size} is no multiple of the {devices} devices")
    shards_over(devices, recipe.engine.shard_over)
    items, stage = list(items), recipe.stage
    config, processors = plan_model(recipe, items)
    weighed = recipe.data.sources
    drawn = [item.id for item in items if item.kind == stage.partner and source_of(item, weighed) in weighed]
    few = set(drawn[:: max(1, len(drawn) // SAMPLE)])
    items = [item for item in items if item.kind != stage.partner or item.id in few]
    here = dataclasses.replace(recipe, workers=0)  # for a few pairs
    with open_batches(here, items, config, processors) as source:
        pairs = source.batch(min(MEASURED, max(PAIRS, recipe.batch_size)), recipe.seed, 0)
    denoise = recipe.denoise_every > 0
    return dry_run(
        *(config, stage, processors, pairs, recipe.batch_size, recipe.micro_batch, denoise, recipe.engine, devices)
    )


def dry_run(
    config: OnePeaceConfig,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    batch_size: int,
    micro_batch: int | None = None,
    denoise: bool = True,
    engine: EngineRecipe | None = None,
    devices: int = 1,
) -> DryRun:
    """The cost of a step with `batch_size` pairs like the given ones, `micro_batch` of them at once on each device.

    Raises:
        ValueError: fewer than `PAIRS` pairs, or what cannot be divided among the devices.
    """
    if len(pairs) < PAIRS:
        raise ValueError(f"a dry run counts with {PAIRS} pairs, and there are {len(pairs)}")
    engine = dataclasses.replace(engine or EngineRecipe(), compile=False)
    if batch_size % devices:
        raise ValueError(f"batch_size={batch_size} is no multiple of the {devices} devices")
    shards = shards_over(devices, engine.shard_over)
    local = batch_size // devices
    at_once = min(micro_batch or local, local)

    def measured(engine: EngineRecipe) -> dict[tuple[int, int], _Measured]:
        some = {PAIRS // 2: pairs[: PAIRS // 2], PAIRS: pairs[:PAIRS]}
        places = ((1, PAIRS // 2), (2, PAIRS // 2), (1, PAIRS))
        return {
            (layers, count): _measure(config, layers, stage, processors, some[count], denoise, engine)
            for layers, count in places
        }

    points = measured(dataclasses.replace(engine, recompute=False))
    flops = _flops({place: point.flops for place, point in points.items()}, config.layers, at_once)
    kept = measured(engine) if engine.recompute else points
    activations = _bytes({place: point.kept for place, point in kept.items()}, config.layers, at_once)
    if engine.recompute:  # and one block's, while it goes backward
        activations += points[1, PAIRS // 2].largest_block * at_once // (PAIRS // 2)
    tokens = {
        name: round(sum(1 + processors[name].length(pair[side]) for pair in pairs) / len(pairs) * batch_size)
        for side, name in enumerate((stage.anchor, stage.partner))
    }
    run = DryRun(count_parameters(config, stage), tokens, flops * batch_size // at_once, {}, devices)
    run.memory["weights"] = FP32 * (run.trained + run.frozen) // shards
    run.memory["gradients"] = FP32 * run.trained // shards
    run.memory["optimizer"] = ADAM * run.trained // shards
    run.memory["working copies"] = _working_copies(config, engine, shards)
    run.memory["activations"] = activations
    return run


def _working_copies(config: OnePeaceConfig, engine: EngineRecipe, shards: int) -> int:
    """Bytes of weights beside the float32 shards: in half precision all of them on one device; where they are sharded
    two blocks, the one at work and the one that is fetched, and all that is in no block."""
    half = engine.precision == "bfloat16"
    model = empty_model(config)
    every = sum(parameter.numel() for parameter in model.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.modules() if isinstance(block, Block)]
    if shards == 1:
        return 2 * every if half else 0
    return (2 if half else FP32) * (every - sum(blocks) + 2 * max(blocks))


def count_parameters(config: OnePeaceConfig, stage: PretrainingStage) -> dict[str, tuple[int, int]]:
    """(trained, frozen) parameters of every part: shared attention, each modality's own, the decoder."""
    model = empty_model(config)
    freeze_for_stage(model, stage)
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        modality = modality_of(bare_name(name))
        part = "decoder" if name.startswith("decoder.") else modality or "shared attention and norms"
        (trained if parameter.requires_grad else frozen)[part] += parameter.numel()
    return {part: (trained[part], frozen[part]) for part in sorted({*trained, *frozen})}


class FlopCount(TorchDispatchMode):
    """Adds up what PyTorch's table of operator costs says of everything that runs inside.

    PyTorch's own `FlopCounterMode` also splits the sum by module, and cannot where frozen and trained parts meet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        cost = flop_registry.get(func._overloadpacket)
        if cost is not None:
            self.total += cost(*args, **(kwargs or {}), out_val=out)
        return out


@dataclass(frozen=True)
class _Measured:
    """One step of a shallow model: flops, bytes kept for the backward pass, and the most that one pass through one
    block keeps of them."""

    flops: int
    kept: int
    largest_block: int


def _measure(
    config: OnePeaceConfig,
    layers: int,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    denoise: bool,
    engine: EngineRecipe,
) -> _Measured:
    # Pairs of equal size, so that both batch sizes hold the same sequences.
    pairs = [pairs[n % (PAIRS // 2)] for n in range(len(pairs))]
    model = OnePeaceForPretraining(dataclasses.replace(config, layers=layers, drop_path=0.0)).train()
    freeze_for_stage(model, stage)
    losses = prepare_model(LossModule(model, stage), engine, Processes(), "cpu")
    batch = collate_pairs(pairs, stage, processors, torch.Generator().manual_seed(0))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    before, largest = 0, 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def enter(*_: object) -> None:
        nonlocal before
        before = sum(kept.values())

    def leave(*_: object) -> None:
        nonlocal largest
        largest = max(largest, sum(kept.values()) - before)

    for block in model.encoder.fusion.blocks:
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    with FlopCount() as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = losses(batch, cross_modal_contrast, denoise)
        result["total"].backward()
    return _Measured(counter.total, sum(kept.values()), largest)


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
