"""Official state dicts sorted by our names: which pieces make up which of our tensors, and what is left over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from one_peace.checkpoints.name_table import Kind, Target
from one_peace.errors import CheckpointError


@dataclass(frozen=True)
class Pieces:
    """Pieces by native name; official names without counterpart, and why; official names that nobody knows."""

    tensors: dict[str, list[Tensor]]
    unused: dict[str, Kind]
    unknown: tuple[str, ...]


def sort_pieces(
    state: Mapping[str, Tensor],
    to_native: Callable[[str], Target | Kind | None],
    to_official: Callable[[str], list[str]],
) -> Pieces:
    """Sorts a state dict; `to_official` says which tensors make up that of a native name.

    Raises:
        CheckpointError: parts of a joined tensor are missing or differ in shape, or two tensors that are the same one
            in every model differ.
    """
    found: dict[str, dict[int, tuple[str, Tensor]]] = {}
    unused: dict[str, Kind] = {}
    unknown, problems = [], []
    for name, tensor in state.items():
        target = to_native(name)
        if isinstance(target, Kind):
            unused[name] = target
        elif target is None:
            unknown.append(name)
        else:
            twin, first = found.setdefault(target.name, {}).setdefault(target.part or 0, (name, tensor))
            if twin != name and not _same(first, tensor):
                problems.append(f"{name} differs from {twin}, with which it is one tensor in every model")
    for native, parts in found.items():
        names = ", ".join(name for name, _ in parts.values())
        pieces = [tensor for _, tensor in parts.values()]
        if len(parts) != len(expected := to_official(native)):
            problems.append(f"{native} is made of {', '.join(expected)}; there are {names}")
        elif len({p.shape[1:] for p in pieces}) > 1:
            problems.append(f"{names} differ in shape")
    if problems:
        raise CheckpointError(f"{len(problems)} tensors are not whole:\n  " + "\n  ".join(problems))
    tensors = {native: [parts[i][1] for i in sorted(parts)] for native, parts in found.items()}
    return Pieces(tensors, unused, tuple(unknown))


def own_storage(tensor: Tensor) -> Tensor:
    """The same memory, as far as the tensor goes: readers of a part would otherwise get the joined tensor's."""
    if not tensor.numel():
        return tensor.clone()
    return (
        torch.from_numpy(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        .view(tensor.dtype)
        .view(tensor.shape)
    )


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)


def joined_shape(pieces: list[Tensor]) -> tuple[int, ...]:
    """Shape of the pieces joined along dimension 0."""
    if len(pieces) == 1:
        return tuple(pieces[0].shape)
    return (sum(p.shape[0] for p in pieces), *pieces[0].shape[1:])
