"""A model's losses as one forward pass, and what the engine of a recipe does to it: devices, precision, sharding.

The weights are sharded block by block (`fully_shard`); with `shard_over` fewer processes than there are, every group
of so many holds a whole copy (hybrid sharding).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from one_peace.nn.block import Block
from one_peace.training.distributed import Processes
from one_peace.training.recipe import EngineRecipe


class ForwardPass(nn.Module):
    """What is computed of a model in training, as one forward pass: sharding and precision hook into it.

    The names of parameters are those of `model`, whether they are sharded or not. `others` are further methods that
    run the model. `blocks` are the kinds of layers that are sharded, recomputed and compiled one by one; `recomputed`
    are further ones that are recomputed alone.
    """

    others: tuple[str, ...] = ()
    blocks: tuple[type[nn.Module], ...] = (Block,)
    recomputed: tuple[type[nn.Module], ...] = ()

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.precision: AbstractContextManager[Any] = nullcontext()


Forward = TypeVar("Forward", bound=ForwardPass)


def prepare_model(losses: Forward, engine: EngineRecipe, processes: Processes, device: str) -> Forward:
    """Moves the model to its device and applies the engine's choices to it, in place.

    A model on the meta device gets memory, on each process for its shards only, and no values yet.

    Raises:
        ValueError: the number of processes is no multiple of `shard_over`.
    """
    shards = shards_over(processes.count, engine.shard_over)
    model = losses.model
    hollow = any(parameter.is_meta for parameter in model.parameters())
    if not hollow:
        model.to(device)
    kind = torch.device(device).type
    half = engine.precision == "bfloat16"
    losses.precision = precision_of(engine, kind)
    blocks = [block for block in model.modules() if isinstance(block, losses.blocks)]
    if engine.compile:
        _compile(blocks)
    if engine.recompute:
        for block in (m for m in model.modules() if isinstance(m, losses.blocks + losses.recomputed)):
            # inside the sharding's hooks, so that the second forward pass finds whole weights
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if processes.group is not None:
        mesh = _mesh(kind, processes.count, shards)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        whole = _unsharded(model)  # see `average_unsharded`
        fully_shard(losses, mesh=mesh, mp_policy=policy, ignored_params=whole, reshard_after_forward=False)
        for name in losses.others:
            register_fsdp_forward_method(losses, name)
    if hollow:
        losses.to_empty(device=device)
    return losses


def precision_of(engine: EngineRecipe, kind: str) -> AbstractContextManager[Any]:
    """What forward passes run in on a kind of device; weights, optimizer and losses stay in float32."""
    return torch.autocast(kind, torch.bfloat16) if engine.precision == "bfloat16" else nullcontext()


def shards_over(count: int, shard_over: int | None) -> int:
    """Number of processes, of `count`, that share one copy of the weights. `ValueError` if it does not divide them."""
    if shard_over is None:
        return count
    if shard_over < 1 or count % shard_over:
        processes = "one process" if count == 1 else f"{count} processes"
        raise ValueError(
            f"engine.shard_over={shard_over} does not divide the {processes} of this run: start a multiple of "
            f"{shard_over} with torchrun, or set engine.shard_over=null"
        )
    return shard_over


def _compile(blocks: Iterable[Any]) -> None:
    """Has the two branches of every block compiled; names of parameters stay.

    Dropped branches, recomputation and sharding stay outside of the compiled code, which therefore is the same for all
    blocks of one shape.
    """
    # One version of the code per combination of experts, bias and gradient, of encoder and decoder.
    torch._dynamo.config.recompile_limit = 64
    for block in blocks:
        block.attend = torch.compile(block.attend, dynamic=True)
        block.feed = torch.compile(block.feed, dynamic=True)


def _mesh(kind: str, count: int, shards: int) -> DeviceMesh:
    if shards == count:
        return init_device_mesh(kind, (count,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (count // shards, shards), mesh_dim_names=("copy", "shard"))


def _unsharded(model: nn.Module) -> set[nn.Parameter]:
    """Scalars, which are too small, and batch norms, which take no half-precision weights beside their statistics."""
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return {p for p in model.parameters() if p.ndim == 0} | {p for norm in norms for p in norm.parameters()}
