"""Training on several processes, which `torchrun` starts: who takes part, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from one_peace.errors import LostProcessError
from one_peace.nn.device import parse_device

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
