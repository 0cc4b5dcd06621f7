"""Relative position bias: which table row belongs to which (query, key) pair, and the tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_POSITIONS = 1024  # of a sequence, its cls position included; fixes the logarithmic spacing of far buckets
CLS_ROWS = 3  # cls to tokens, tokens to cls, cls to itself


def kept_table(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keeps the tables of the last sizes that were asked for, which every pass through a model asks for again."""
    # what encoding leaves here must serve training too
    kept = lru_cache(maxsize=64)(torch.inference_mode(False)(make))

    @wraps(make)
    def table(*sizes: int) -> Tensor:
        # An export runs on tensors without values: one that was kept would be the table of all passes after it.
        return make(*sizes) if torch.compiler.is_exporting() else kept(*sizes)

    return table


def sequence_rows(buckets: int) -> int:
    """Number of table rows for a sequence modality."""
    return 2 * buckets - 1 + CLS_ROWS


def grid_rows(grid: int) -> int:
    """Number of table rows for a square grid of `grid` x `grid` patches."""
    return (2 * grid - 1) ** 2 + CLS_ROWS


def with_cls(tokens: Tensor, first_row: int) -> Tensor:
    """Puts the cls row and column (position 0), whose table rows begin at `first_row`, around the buckets of the other
    tokens."""
    size = tokens.shape[0] + 1
    table = torch.empty(size, size, dtype=torch.int64, device=tokens.device)
    table[1:, 1:] = tokens
    table[0, :] = first_row
    table[:, 0] = first_row + 1
    table[0, 0] = first_row + 2
    return table


@kept_table
def offset_buckets(buckets: int, positions: int) -> Tensor:
    """Buckets of a sequence without a cls position -> (positions, positions) int64, row = query.

    Near distances have a bucket each, far ones share logarithmically spaced ones (as DeBERTa does).
    """
    if positions > MAX_POSITIONS:
        raise ValueError(f"{positions} positions: relative positions reach {MAX_POSITIONS}, cls included")
    places = torch.arange(positions, device="cpu")  # tables are kept, whatever the default device is now
    offsets = places[:, None] - places[None, :]
    middle = buckets // 2
    distance = torch.where(offsets.abs() < middle, middle - 1, offsets.abs())
    # float32 throughout, whatever the default dtype: the published buckets depend on its rounding
    scaled = torch.log(distance.float() / middle) / math.log((MAX_POSITIONS - 1) / middle) * (middle - 1)
    far = offsets.sign() * (middle + scaled.ceil()).to(torch.int64)
    return torch.where(distance <= middle, offsets, far) + buckets - 1


@kept_table
def sequence_buckets(buckets: int, positions: int) -> Tensor:
    """Buckets of a sequence of `positions` positions (cls first) -> (positions, positions) int64, row = query."""
    return with_cls(offset_buckets(buckets, positions)[1:, 1:], first_row=2 * buckets - 1)


@kept_table
def grid_buckets(height: int, width: int, grid: int) -> Tensor:
    """Buckets of `height` x `width` patches, cls first, in a `grid` x `grid` table -> (tokens, tokens) int64."""
    if max(height, width) > grid:
        raise ValueError(f"{height} x {width} patches do not fit a relative table of {grid} x {grid}")
    y, x = torch.meshgrid(torch.arange(height, device="cpu"), torch.arange(width, device="cpu"), indexing="ij")
    y, x = y.flatten(), x.flatten()
    span = 2 * grid - 1
    tokens = (y[:, None] - y[None, :] + grid - 1) * span + (x[:, None] - x[None, :] + grid - 1)
    return with_cls(tokens, first_row=span**2)


class RelativeBias(nn.Module):
    """Learned bias tables: one shared by all blocks, or one per block."""

    def __init__(self, rows: int, heads: int, tables: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.zeros(rows, heads)) for _ in range(tables)])

    def forward(self, buckets: Tensor, kept: Tensor | None = None, tables: list[Tensor] | None = None) -> list[Tensor]:
        """Attention bias per table.

        buckets (tokens, tokens) int64; kept (batch, visible) int64 selects rows and columns per sample.
        -> list of (1 or batch, heads, tokens, tokens). `tables` replaces the module's own (resized ones).
        """
        buckets = buckets.to(self.tables[0].device, non_blocking=True)
        buckets = buckets[None] if kept is None else buckets[kept[:, :, None], kept[:, None, :]]
        return [F.embedding(buckets, t).permute(0, 3, 1, 2).contiguous() for t in (tables or list(self.tables))]
