"""Puts tensors from files into a module that has no memory yet, one at a time and without copies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from one_peace.checkpoints.pieces import joined_shape
from one_peace.errors import CheckpointError
from one_peace.nn.device import parse_device
from one_peace.nn.relative_position import CLS_ROWS
from one_peace.nn.resize import resize_bias_table, resize_positions

TABLE = re.compile(r"(.*\.bias\.tables)\.(\d+)")
GRID_TABLE = re.compile(r"(?:.*\.)?adapters\.image\.bias\.tables\.\d+")
GRID_POSITIONS = re.compile(r"(?:.*\.)?adapters\.image\.positions\.weight")
Built = TypeVar("Built", bound=nn.Module)


@dataclass
class AssignReport:
    """What did not go in one to one. `missing` parameters are still on the meta device."""

    missing: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    cloned: list[str] = field(default_factory=list)


def check_depth(config: Mapping[str, Any], tensors: Collection[str]) -> None:
    """`ValueError` for a plain config with more layers than its weights have tensors.

    A module of a thousand million layers would take all memory before any of their tensors was missed.
    """
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_depth(value, tensors)
        elif name.endswith(("layers", "depth", "trunk", "blocks")):
            count = value if isinstance(value, int) else sum(value)
            if count > len(tensors):
                raise ValueError(f"{name} is {value}, and the weights are {len(tensors)} tensors")


def build_on_meta(build: Callable[[Any], Built], config: Any) -> Built:
    """The module of a config, without memory. `CheckpointError` for a config of which none can be made."""
    try:
        with torch.device("meta"):
            return build(config)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"its configuration does not fit this version: {error}") from error


def assign_tensors(
    module: nn.Module,
    source: Mapping[str, list[Tensor]],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    optional: tuple[str, ...] = (),
    *,
    shrink: bool = False,
) -> AssignReport:
    """Fills a module built on the meta device; `source` maps names of parameters and buffers to pieces to be joined.

    Every parameter is allocated once in its final dtype (None: that of its source) and place; integers stay what they
    are. Buffers that are not saved are left alone. Tables of another image grid are resized, relative ones to a smaller
    grid with `shrink` alone, since else the offsets of a smaller grid are a part of the table. A bias table
    that all layers share is copied to each. `CheckpointError` names every tensor that is unexpected, mis-shaped,
    of integers in place of real numbers, or missing (those whose names begin as in `optional` may be), before anything
    is allocated. `ValueError` for a device that is not here.
    """
    report = AssignReport()
    parameters: dict[str, Tensor] = module.state_dict(keep_vars=True)
    origin: dict[str, str] = {}
    problems: list[str] = []
    per_layer = {match[1] for name in source if (match := TABLE.fullmatch(name)) and match[2] != "0"}
    for name, parameter in parameters.items():
        if name in source:
            origin[name] = name
        elif (table := TABLE.fullmatch(name)) and table[1] not in per_layer and f"{table[1]}.0" in source:
            origin[name] = f"{table[1]}.0"
            report.cloned.append(name)
        else:
            report.missing.append(name)
            continue
        pieces = source[origin[name]]
        shape, dtypes = joined_shape(pieces), {piece.dtype for piece in pieces}
        if parameter.is_floating_point() and not all(dtype.is_floating_point for dtype in dtypes):
            problems.append(f"{name}: {', '.join(map(str, dtypes))} in the file, the model has real numbers")
        elif shape != tuple(parameter.shape):
            if _resizable(name, shape, tuple(parameter.shape), shrink):
                report.resized.append(name)
            else:
                problems.append(f"{name}: shape {_text(shape)} in the file, {_text(parameter.shape)} in the model")
    problems += [f"{name}: unexpected, the model has no such parameter" for name in source if name not in parameters]
    problems += [f"{name}: missing from the file" for name in report.missing if not name.startswith(optional)]
    if problems:
        raise CheckpointError(f"{len(problems)} tensors do not fit the model:\n  " + "\n  ".join(problems))

    device = parse_device(device)
    resized: dict[str, list[Tensor]] = {}  # a shared table is resized once, not for each layer
    for name, parameter in parameters.items():
        if name not in origin:
            continue
        pieces = source[origin[name]]
        if name in report.resized:
            if origin[name] not in resized:
                resized[origin[name]] = [_resize(name, torch.cat(list(pieces)), tuple(parameter.shape))]
            pieces = resized[origin[name]]
        _materialise(module, name, pieces, device, dtype)
    return report


def _materialise(
    module: nn.Module, name: str, pieces: list[Tensor], device: torch.device | str, dtype: torch.dtype | None
) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    old = owner._parameters.get(leaf, owner._buffers.get(leaf))
    assert old is not None
    new = torch.empty(
        old.shape, dtype=(dtype or pieces[0].dtype) if old.is_floating_point() else old.dtype, device=device
    )
    start = 0
    for piece in pieces:
        target = new if len(pieces) == 1 else new[start : start + piece.shape[0]]
        target.copy_(piece)
        start += piece.shape[0] if piece.ndim else 0
    if leaf in owner._buffers:
        owner._buffers[leaf] = new
    else:
        owner._parameters[leaf] = nn.Parameter(new, requires_grad=old.requires_grad)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape) or "scalar"


def _resizable(name: str, given: tuple[int, ...], wanted: tuple[int, ...], shrink: bool) -> bool:
    if len(given) != 2 or given[1] != wanted[1]:
        return False
    if GRID_TABLE.fullmatch(name):
        return (shrink or wanted[0] > given[0]) and all(_is_square(n - CLS_ROWS) for n in (given[0], wanted[0]))
    return bool(GRID_POSITIONS.fullmatch(name)) and all(_is_square(n - 1) for n in (given[0], wanted[0]))


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _resize(name: str, table: Tensor, wanted: tuple[int, ...]) -> Tensor:
    if GRID_TABLE.fullmatch(name):
        return resize_bias_table(table, (math.isqrt(wanted[0] - CLS_ROWS) + 1) // 2)
    side = math.isqrt(wanted[0] - 1)
    return resize_positions(table, (side, side))
