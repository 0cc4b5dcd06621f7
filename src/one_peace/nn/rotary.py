"""Rotary positions of a grid: queries and keys turned by angles that grow with row and column."""

from __future__ import annotations

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each (tokens, head_dim)."""


@torch.inference_mode(False)  # what encoding computes must serve training too
def grid_rotary(grid: int, head_dim: int, trained_grid: int, device: torch.device | None = None) -> Rotary:
    """Angles for a class token, which is not turned, and `grid` x `grid` patches (EVA-02, arXiv 2303.11331).

    The first half of a head follows the row, the second the column, in pairs of neighbours of one frequency. A grid
    of another size than the trained one is stretched over the same angles.
    """
    if head_dim % 4:
        raise ValueError(f"rotary positions of a grid need heads of a multiple of 4, got {head_dim}")
    half = head_dim // 2
    frequencies = 10000.0 ** -(torch.arange(0, half, 2, dtype=torch.float32, device="cpu")[: half // 2] / half)
    places = torch.arange(grid, dtype=torch.float32, device="cpu") / grid * trained_grid
    along = torch.outer(places, frequencies).repeat_interleave(2, dim=1)  # (grid, head_dim / 2)
    rows, columns = along[:, None].expand(-1, grid, -1), along[None].expand(grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).reshape(grid * grid, head_dim)
    angles = torch.cat([angles.new_zeros(1, head_dim), angles])
    return angles.cos().to(device), angles.sin().to(device)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """x (batch, heads, tokens, head_dim), turned; `tokens` may be the first few of those of `rotary`."""
    cos, sin = (table[: x.shape[2]].to(x.dtype) for table in rotary)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + turned * sin
