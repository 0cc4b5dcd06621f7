"""Training on several processes: who takes part, who holds which share of the weights, and sums over all of them.

`torchrun` starts the processes and tells each its number. The weights are sharded block by block (`fully_shard`);
with `shard_over` fewer processes than there are, every group of so many holds a whole copy (hybrid sharding).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from one_peace.errors import LostProcessError
from one_peace.nn.block import Block
from one_peace.nn.device import parse_device
from one_peace.training.recipe import EngineRecipe

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run. `group` (gloo) is for small exchanges on the host, `saving` for those of saves."""

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None
    saving: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def divide(self, batch_size: int, micro_batch: int | None = None) -> tuple[int, int]:
        """Examples of one process in an update, and of its micro-batches. `ValueError` where they do not divide."""
        if batch_size % self.count:
            raise ValueError(f"batch_size={batch_size} is no multiple of the {self.count} processes")
        local = batch_size // self.count
        micro = min(micro_batch or local, local)
        if local % micro:
            raise ValueError(
                f"micro_batch={micro} does not divide the {local} examples that each of {self.count} processes takes"
            )
        return local, micro

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.group is None:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.group)
        return bool(value.item())

    def share(self, value: T) -> T:
        """The first process's value, on every process; what the others pass is ignored."""
        if self.group is None:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return cast(T, box[0])

    def collect(self, value: T) -> list[T]:
        """What every process calls this with, in the order of ranks."""
        if self.group is None:
            return [value]
        box: list[Any] = [None] * self.count
        dist.all_gather_object(box, value, group=self.group)
        return box

    def wait(self) -> None:
        """Returns once all processes have called it."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def gather(self, rows: Tensor) -> Tensor:
        """(rows, ...) of each process -> (all rows, ...) in the order of ranks, without gradient."""
        if self.group is None:
            return rows.detach()
        rows = rows.detach().contiguous()
        gathered = rows.new_empty((self.count * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows)
        return gathered

    def gather_trained(self, rows: Tensor) -> Tensor:
        """As `gather`, with gradient: the gradient of a row is the sum over all processes."""
        gathered: Tensor = rows if self.group is None else _Gathered.apply(rows, self)
        return gathered

    def sum(self, rows: Tensor) -> Tensor:
        """The sum over processes of a tensor on the CPU, in place."""
        if self.group is not None:
            dist.all_reduce(rows, group=self.group)
        return rows

    def mean(self, values: Mapping[str, Tensor], summed: Iterable[str] = ()) -> dict[str, float]:
        """Scalars averaged over processes, those named in `summed` added up."""
        names = sorted(values)
        stacked = torch.stack([values[name].detach().float().cpu() for name in names])
        if self.group is not None:
            dist.all_reduce(stacked, group=self.group)
        totals = dict(zip(names, stacked.tolist(), strict=True))
        counted = set(summed)
        return {name: totals[name] if name in counted else totals[name] / self.count for name in values}


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes) -> Tensor:
        ctx.processes, ctx.own = processes, slice(processes.rank * len(rows), (processes.rank + 1) * len(rows))
        return processes.gather(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[ctx.own], None


_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # gloo's words, and NCCL's


@contextmanager
def join_processes(device: str = "cpu") -> Iterator[tuple[Processes, str]]:
    """The processes that `torchrun` started, and this one's device; one process and `device` itself without torchrun.

    Leaves the process group at the end.

    Raises:
        ValueError: `device` is not here, or is cuda and this machine has fewer GPUs than processes.
        LostProcessError: another process has ended.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        parse_device(device)
        yield Processes(), device
        return
    kind = device.partition(":")[0]
    if kind == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU: it has {torch.cuda.device_count()}; "
                "start torchrun with --nproc-per-node of at most that"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    parse_device(device)  # only now: a process that looks at another one's GPU takes memory there
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    try:
        group, saving = dist.new_group(backend="gloo"), dist.new_group(backend="gloo")
        yield Processes(dist.get_rank(), dist.get_world_size(), group, saving), device
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise LostProcessError(
            f"process {dist.get_rank()} stops too: another one of the run has exited; its output says why"
        ) from error
    finally:
        dist.destroy_process_group()


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
        fully_shard(losses, mesh=mesh, mp_policy=policy, ignored_params=_unsharded(model), reshard_after_forward=False)
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


def average_unsharded(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Averages the gradients of parameters that are not sharded, in place."""
    found = [p.grad for p in parameters if not isinstance(p, DTensor) and p.grad is not None]
    if processes.group is None or not found:
        return
    together = torch.cat([grad.flatten() for grad in found])
    dist.all_reduce(together)
    parts = (together / processes.count).split([grad.numel() for grad in found])
    for grad, part in zip(found, parts, strict=True):
        grad.copy_(part.view_as(grad))


@torch.no_grad()
def average_changes(values: Sequence[Tensor], before: Sequence[Tensor], processes: Processes) -> None:
    """Averages over processes, in place, what each changed of values that were the same on all of them.

    Integers count alike everywhere and are left out. What no process changed stays as it is, to the bit.
    """
    pairs = [pair for pair in zip(values, before, strict=True) if pair[0].is_floating_point()]
    if processes.group is None or not pairs:
        return
    changes = torch.cat([(value - old).flatten() for value, old in pairs])
    dist.all_reduce(changes)
    parts = (changes / processes.count).split([old.numel() for _, old in pairs])
    for (value, old), change in zip(pairs, parts, strict=True):
        value.copy_(old + change.view_as(old))


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """The global gradient norm (scalar, the same on every process), gradients scaled in place to at most `limit`."""
    parameters = [p for p in parameters if p.grad is not None]
    sharded = [p.grad for p in parameters if isinstance(p.grad, DTensor)]
    if not sharded:
        return nn.utils.clip_grad_norm_(parameters, limit)
    plain = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    norm = nn.utils.get_total_norm(sharded)
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if plain:
        whole = torch.linalg.vector_norm(torch.stack([whole, nn.utils.get_total_norm(plain)]))
    factor = (limit / (whole + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        assert parameter.grad is not None
        local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
        local.mul_(factor)
    return whole


def whole_tensor(tensor: Tensor) -> Tensor:
    """The values on the CPU, detached. A sharded tensor is gathered, so every process has to call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
