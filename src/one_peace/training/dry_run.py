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
from one_peace.tasks.pretraining import PretrainingStage, collate_pairs, freeze_for_stage, pretraining_losses
from one_peace.training.recipe import PretrainRecipe
from one_peace.training.run import open_batches
from one_peace.training.start import plan_model

PAIRS = 4  # to count with; the batches have half of them, and all
SAMPLE = 64  # items read for the mean length
FP32, ADAM = 4, 8  # bytes per value, and per trained value of the two moments


@dataclass(frozen=True)
class DryRun:
    """The numbers of one step, as if one device did all of it.

    `parameters` maps a part to (trained, frozen) counts, `tokens` a modality to the tokens of the batch. `flops`
    counts matrix products and convolutions, forward and backward, two per multiplication and addition. Memory is in
    bytes: `weights` in float32, `gradients`, `optimizer` state, and `activations` kept for the backward pass of the
    pairs that go through at once.
    """

    parameters: dict[str, tuple[int, int]]
    tokens: dict[str, int]
    flops: int
    memory: dict[str, int]

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return sum(trained for trained, _ in self.parameters.values())

    @property
    def frozen(self) -> int:
        """Number of frozen parameters."""
        return sum(frozen for _, frozen in self.parameters.values())


def plan_run(recipe: PretrainRecipe, items: Iterable[Item]) -> DryRun:
    """The dry run of a recipe: reads a few of its pictures or sounds, and no weights."""
    items, stage = list(items), recipe.stage
    config, processors = plan_model(recipe, items)
    drawn = [item.id for item in items if item.kind == stage.partner and source_of(item) in recipe.data.sources]
    few = set(drawn[:: max(1, len(drawn) // SAMPLE)])
    items = [item for item in items if item.kind != stage.partner or item.id in few]
    with open_batches(recipe, items, config, processors) as source:
        pairs = source.batch(SAMPLE // 2, recipe.seed, 0)
    return dry_run(config, stage, processors, pairs, recipe.batch_size, recipe.micro_batch)


def dry_run(
    config: OnePeaceConfig,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    batch_size: int,
    micro_batch: int | None = None,
    denoise: bool = True,
) -> DryRun:
    """The cost of a step with `batch_size` pairs like the given ones, `micro_batch` of them at once (all by default).

    Raises:
        ValueError: fewer than `PAIRS` pairs.
    """
    if len(pairs) < PAIRS:
        raise ValueError(f"a dry run counts with {PAIRS} pairs, and there are {len(pairs)}")
    parameters = count_parameters(config, stage)
    half, full = pairs[: PAIRS // 2], pairs[:PAIRS]
    points = {
        (layers, len(some)): _measure(config, layers, stage, processors, some, denoise)
        for layers, some in ((1, half), (2, half), (1, full))
    }
    at_once = micro_batch or batch_size
    flops, activations = (
        _extend({place: point[n] for place, point in points.items()}, config.layers, at_once) for n in (0, 1)
    )
    flops = flops * batch_size // at_once
    tokens = {
        name: round(sum(1 + processors[name].length(pair[side]) for pair in pairs) / len(pairs) * batch_size)
        for side, name in enumerate((stage.anchor, stage.partner))
    }
    run = DryRun(parameters, tokens, flops, {})
    run.memory["weights"] = FP32 * (run.trained + run.frozen)
    run.memory["gradients"] = FP32 * run.trained
    run.memory["optimizer"] = ADAM * run.trained
    run.memory["activations"] = activations
    return run


def count_parameters(config: OnePeaceConfig, stage: PretrainingStage) -> dict[str, tuple[int, int]]:
    """(trained, frozen) parameters of every part: shared attention, each modality's own, the decoder."""
    with torch.device("meta"):
        model = OnePeaceForPretraining(config)
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


def _measure(
    config: OnePeaceConfig,
    layers: int,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    denoise: bool,
) -> tuple[int, int]:
    """(flops, bytes kept for the backward pass) of one step of a shallow model."""
    # Pairs of equal size, so that both batch sizes hold the same sequences.
    pairs = [pairs[n % (PAIRS // 2)] for n in range(len(pairs))]
    model = OnePeaceForPretraining(dataclasses.replace(config, layers=layers, drop_path=0.0)).train()
    freeze_for_stage(model, stage)
    batch = collate_pairs(pairs, stage, processors, torch.Generator().manual_seed(0))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCount() as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = pretraining_losses(model, batch, stage, denoise=denoise)
        losses["total"].backward()
    return counter.total, sum(kept.values())


def _extend(points: Mapping[tuple[int, int], int], layers: int, batch: int) -> int:
    """From (layers, batch) = (1, b), (2, b), (1, 2 b) to any: blocks cost alike, the rest `p b + q b^2`."""
    small, deep, large = points[1, PAIRS // 2], points[2, PAIRS // 2], points[1, PAIRS]
    half = PAIRS // 2
    block = (deep - small) / half  # per pair
    quadratic = (large - 2 * small) / (2 * half * half)
    linear = (small - quadratic * half * half) / half
    return round(linear * batch + quadratic * batch * batch + block * (layers - 1) * batch)
