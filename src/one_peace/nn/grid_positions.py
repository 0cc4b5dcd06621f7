"""Cells of pictures and image codes as rows of position tables, and the relative table's row for each pair of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BEYOND_WINDOW = 1024  # row of the image positions for what comes after the last code


def grid_positions(height: int, width: int, grid: int) -> Tensor:
    """Rows of the table of image positions for `height` x `width` cells, row by row -> (cells,) int64; 0 is no cell."""
    if max(height, width) > grid:
        raise ValueError(f"{height} x {width} cells do not fit the {grid} x {grid} positions of this model")
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    return (rows * grid + columns + 1).flatten()


def code_positions(window: int, grid: int, length: int) -> Tensor:
    """Rows for a sequence of codes: the start token, `window` x `window` codes, then any further -> (length,) int64."""
    cells = torch.cat([torch.zeros(1, dtype=torch.int64), grid_positions(window, window, grid)])
    return F.pad(cells, (0, max(0, length - len(cells))), value=BEYOND_WINDOW)[:length]


def image_buckets(queries: Tensor, keys: Tensor, grid: int) -> Tensor:
    """Rows of a relative table for pairs of image positions, (..., q) and (..., k) int64 -> (..., q, k) int64.

    The buckets of `nn.relative_position.grid_buckets`, for any cells in any order; position 0 is that of the start.
    """
    span = 2 * grid - 1
    q, k = queries[..., :, None], keys[..., None, :]
    down = (q - 1).div(grid, rounding_mode="floor") - (k - 1).div(grid, rounding_mode="floor")
    across = (q - 1).remainder(grid) - (k - 1).remainder(grid)
    rows = (down + grid - 1) * span + across + grid - 1
    rows = torch.where(q == 0, span**2, rows)
    rows = torch.where(k == 0, span**2 + 1, rows)
    return torch.where((q == 0) & (k == 0), span**2 + 2, rows)
