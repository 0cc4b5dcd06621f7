"""What a step costs: the figures that a dry run tells, and how arithmetic and kept memory are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from one_peace.training.recipe import EngineRecipe

FP32, ADAM = 4, 8  # bytes per value, and per trained value of the two moments


@dataclass(frozen=True)
class Cost:
    """The numbers of one step of all `devices` together, and the memory that it takes on each.

    `parameters` maps a part to (trained, frozen) counts, `tokens` what is read to the tokens of the batch. `flops`
    counts matrix products and convolutions, forward and backward, two per multiplication and addition; what is
    recomputed is not counted again. `memory` is in bytes, as the recipe's engine has it: a device's share of the
    float32 `weights`, of their `gradients` and the `optimizer` state; the `working copies` of weights that are whole or
    in half precision at one time; and the `activations` kept for the backward pass of what goes through at once.
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

    def as_text(self) -> str:
        """For people."""
        lines = [f"{'parameters':32} {'trained':>15} {'frozen':>15}"]
        lines += [f"  {part:30} {trained:15,} {frozen:15,}" for part, (trained, frozen) in self.parameters.items()]
        lines += [f"  {'in all':30} {self.trained:15,} {self.frozen:15,}", "", "one step, all devices together"]
        lines += [f"  {name + ' tokens':30} {count:15,}" for name, count in self.tokens.items()]
        lines += [f"  {'arithmetic':30} {self.flops / 1e12:11,.2f} TFLOP", "", f"memory per device, of {self.devices}"]
        lines += [f"  {what:30} {size / 2**30:11,.2f} GiB" for what, size in self.memory.items()]
        lines.append(f"  {'in all':30} {sum(self.memory.values()) / 2**30:11,.2f} GiB")
        return "\n".join(lines)


def count_parameters(model: nn.Module, part_of: Callable[[str], str]) -> dict[str, tuple[int, int]]:
    """(trained, frozen) parameters of every part, which `part_of` tells by a parameter's name."""
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        (trained if parameter.requires_grad else frozen)[part_of(name)] += parameter.numel()
    return {part: (trained[part], frozen[part]) for part in sorted({*trained, *frozen})}


def memory_of_weights(
    model: nn.Module, blocks: tuple[type[nn.Module], ...], engine: EngineRecipe, shards: int
) -> dict[str, int]:
    """Bytes on one of `shards` devices: shares of weights, gradients and optimizer state, and working copies.

    `blocks` are the kinds of layers that are sharded one by one. The copies are all weights in half precision on one
    device; where they are sharded, two blocks, the one at work and the one that is fetched, and all that is in no
    block.
    """
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    sizes = [sum(p.numel() for p in block.parameters()) for block in model.modules() if isinstance(block, blocks)]
    half = engine.precision == "bfloat16"
    if shards == 1:
        copies = 2 * every if half else 0
    else:
        copies = (2 if half else FP32) * (every - sum(sizes) + 2 * max(sizes, default=0))
    return {
        "weights": FP32 * every // shards,
        "gradients": FP32 * trained // shards,
        "optimizer": ADAM * trained // shards,
        "working copies": copies,
    }


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


class KeptMemory(AbstractContextManager["KeptMemory"]):
    """The bytes that autograd keeps of what runs inside, without parameters and their copies in half precision, which
    are as many for any batch (`memory_of_weights`).

    `most` is the largest number at one time; `largest_block` the most that one pass through one of the blocks adds.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        self.own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.users: Counter[int] = Counter()  # by storage
        self.now = self.most = self.largest_block = 0
        self.entered: list[int] = []
        self.handles = [block.register_forward_pre_hook(self._enter) for block in blocks]
        self.handles += [block.register_forward_hook(self._leave) for block in blocks]
        self.copying = _Copies(self.own)
        self.saving = torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, self), _Kept.unpack)

    def __enter__(self) -> KeptMemory:
        self.copying.__enter__()
        self.saving.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.saving.__exit__(*error)
        self.copying.__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def add(self, tensor: Tensor, users: int) -> None:
        """One user more, or less, of a tensor's storage."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self.own:
            return
        before = self.users[place]
        self.users[place] += users
        if (before == 0) != (self.users[place] == 0):
            self.now += users * storage.nbytes()
            self.most = max(self.most, self.now)

    def _enter(self, *_: object) -> None:
        self.entered.append(self.now)

    def _leave(self, *_: object) -> None:
        self.largest_block = max(self.largest_block, self.now - self.entered.pop())


class _Copies(TorchDispatchMode):
    """Takes what is cast from parameters for parameters too."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self.own = own
        self.held: list[Tensor] = []  # so that nothing else gets their place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage().data_ptr() in self.own:
            self.held.append(out)
            self.own.add(out.untyped_storage().data_ptr())
        return out


class _Kept:
    """A tensor in the hands of autograd; gone when autograd lets it go."""

    def __init__(self, tensor: Tensor, memory: KeptMemory) -> None:
        self.tensor, self.memory = tensor, memory
        memory.add(tensor, 1)

    def unpack(self) -> Tensor:
        return self.tensor

    def __del__(self) -> None:
        self.memory.add(self.tensor, -1)
