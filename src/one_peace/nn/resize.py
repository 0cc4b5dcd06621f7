"""Position tables for other resolutions than the trained one."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.nn.relative_position import CLS_ROWS


def resize_positions(table: Tensor, grid: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Absolute positions (1 + side^2, width), cls first -> (1 + height * width, width), differentiable."""
    side = round((table.shape[0] - 1) ** 0.5)
    if side * side + 1 != table.shape[0]:
        raise ValueError(f"a table of {table.shape[0]} rows is no square grid plus cls")
    patches = table[1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode=mode, align_corners=False)
    return torch.cat([table[:1], patches.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1).to(table.dtype)])


def resize_frames(table: Tensor, count: int) -> Tensor:
    """A table (1, rows, width) for `count` frames, (1, count, width): the row nearest in time for each."""
    if table.shape[1] == count:
        return table
    return F.interpolate(table.transpose(1, 2), count, mode="nearest").transpose(1, 2)


def resize_bias_table(table: Tensor, grid: int) -> Tensor:
    """Relative bias table of a square grid -> that of a `grid` x `grid` one, each head by a bicubic spline.

    Offsets of the trained grid are spread so that their spacing grows geometrically with distance: near offsets keep
    their values almost exactly and far ones cover the new range. The cls rows are kept. No gradient.
    """
    span = round((table.shape[0] - CLS_ROWS) ** 0.5)
    if span * span + CLS_ROWS != table.shape[0] or span % 2 == 0:
        raise ValueError(f"a table of {table.shape[0]} rows is no relative bias of a square grid")
    new_span = 2 * grid - 1
    if new_span == span:
        return table
    from scipy.interpolate import RectBivariateSpline

    known = geometric_offsets(span, new_span)
    wanted = np.arange(-(new_span // 2), new_span // 2 + 1, dtype=np.float64)
    heads = table[:-CLS_ROWS].detach().cpu().double().numpy().T.reshape(-1, span, span)
    resized = [RectBivariateSpline(known, known, head.T, kx=3, ky=3, s=0)(wanted, wanted).T for head in heads]
    rows = torch.from_numpy(np.stack([head.reshape(-1) for head in resized], axis=1)).float()
    return torch.cat([rows.to(table), table[-CLS_ROWS:]])


def geometric_offsets(span: int, new_span: int) -> np.ndarray:
    """Where the offsets of a grid of `span` lie in one of `new_span`: spacing 1, q, q^2, ... outwards from 0."""
    steps = span // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1.0 - ratio**steps) / (1.0 - ratio)
        if reach > new_span // 2:
            high = ratio
        else:
            low = ratio
    outward = np.concatenate([[1.0], 1.0 + np.cumsum(ratio ** np.arange(1, steps))])
    return np.concatenate([-outward[::-1], [0.0], outward])
