"""The cross-modal contrast in tiles: the same numbers, with memory linear in the number of candidates.

The plain loss keeps a (queries, candidates) matrix of logits per direction, and more of the same size for its
gradient. Here the candidates pass in tiles: the forward pass folds each tile into running log-sum-exps, the backward
pass computes the tile's logits again. The idea is that of Inf-CL (arXiv 2410.17243), here as one product per tile
for both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from one_peace.objectives.contrast import ContrastResult

TILE = 1024
LEFT_OUT = -1e9  # a logit that adds nothing to any sum of exponentials; finite, so that no sum of rows becomes NaN

Gather = Callable[[Tensor], Tensor]
"""(rows, ...) of this process -> (all rows, ...) of all processes, in the order of their ranks, without gradient."""


class _Direction(NamedTuple):
    """What one direction's queries know after the forward pass, each (rows,) float32, the count a scalar."""

    log_sum: Tensor
    target_logit: Tensor
    logit_sum: Tensor
    correct: Tensor


def tiled_contrast(
    first: Tensor,
    second: Tensor,
    logit_scale: Tensor | float,
    smoothing: float = 0.0,
    gather: Gather | None = None,
    offset: int = 0,
    full_gradients: bool = False,
    tile: int = TILE,
    groups: Tensor | None = None,
) -> ContrastResult:
    """Symmetric InfoNCE over unit-length features (rows, dim), as `cross_modal_contrast`, never wider than `tile`.

    `gather` brings in the candidates of all processes, this one's rows starting at `offset`; every process calls it
    with the same number of rows. The loss is the mean over this process's rows, in float32. By the published rule
    gradient reaches a feature as a query only. With `full_gradients` it also reaches it as a candidate of every
    query of every process: averaged over processes, the gradient is that of the loss over the global batch.
    `groups` (rows,) int64 says which pairs are alike, such as those with one caption: pairs of one group are not each
    other's negatives (without smoothing only).
    """
    if groups is not None and smoothing:
        raise ValueError("label smoothing gives a share to every candidate, so none can be left out by `groups`")
    scale = torch.as_tensor(logit_scale, dtype=torch.float32, device=first.device)
    collect: Gather = gather if gather is not None else lambda x: x
    loss, forward, backward = _Contrast.apply(
        first, second, scale, smoothing, collect, offset, full_gradients, tile, groups
    )
    return ContrastResult(loss, forward, backward)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        second: Tensor,
        scale: Tensor,
        smoothing: float,
        gather: Gather,
        offset: int,
        full_gradients: bool,
        tile: int,
        groups: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        a, b = first.detach().float(), second.detach().float()
        all_a, all_b = gather(a), gather(b)
        classes = all_a.shape[0]
        alike = None if groups is None else _Alike(groups, gather(groups), offset)
        with torch.autocast(a.device.type, enabled=False):
            forward = _scan(a, all_b, scale, offset, tile, alike)
            backward = _scan(b, all_a, scale, offset, tile, alike)
        share = smoothing / (classes - 1) if smoothing else 0.0
        rows = [
            d.log_sum - (1.0 - smoothing - share) * d.target_logit - share * d.logit_sum for d in (forward, backward)
        ]
        # Gathered here and not in the backward pass: collectives then come in one order on every process.
        columns = [gather(d.log_sum) for d in (forward, backward)] if full_gradients else []
        ctx.save_for_backward(a, b, all_a, all_b, scale, forward.log_sum, backward.log_sum, *columns)
        ctx.smoothing, ctx.share, ctx.offset, ctx.tile, ctx.alike = smoothing, share, offset, tile, alike
        ctx.dtypes = first.dtype, second.dtype
        ctx.mark_non_differentiable(forward.correct, backward.correct)
        return (rows[0].mean() + rows[1].mean()) / 2, forward.correct, backward.correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, all_a, all_b, scale, lse_a, lse_b, *columns = ctx.saved_tensors
        weight = grads[0] / (2 * a.shape[0])
        all_lse_a, all_lse_b = columns if columns else (None, None)
        with torch.autocast(a.device.type, enabled=False):
            grad_a, scale_a = _grads(ctx, a, all_b, scale, lse_a, all_lse_b)
            grad_b, scale_b = _grads(ctx, b, all_a, scale, lse_b, all_lse_a)
        first, second = ((weight * scale * g).to(dtype) for g, dtype in zip((grad_a, grad_b), ctx.dtypes, strict=True))
        return first, second, weight * (scale_a + scale_b), None, None, None, None, None, None


class _Alike(NamedTuple):
    """The groups of this process's pairs and of all pairs."""

    rows: Tensor
    every: Tensor
    offset: int

    def mask(self, start: int, stop: int) -> Tensor:
        """Which of the candidates from `start` on are alike a row, and not its own partner: (rows, candidates) bool."""
        places = torch.arange(start, min(stop, len(self.every)), device=self.rows.device)
        own = torch.arange(len(self.rows), device=self.rows.device) + self.offset
        return (self.rows[:, None] == self.every[places]) & (own[:, None] != places)


def _scan(
    queries: Tensor, candidates: Tensor, scale: Tensor, offset: int, tile: int, alike: _Alike | None
) -> _Direction:
    """One pass over the candidates' tiles with running maxima and sums."""
    rows = queries.shape[0]
    peak = queries.new_full((rows,), -torch.inf)
    total = queries.new_zeros(rows)
    best = torch.zeros(rows, dtype=torch.int64, device=queries.device)
    for start in range(0, candidates.shape[0], tile):
        logits = scale * (queries @ candidates[start : start + tile].t())
        if alike is not None:
            logits.masked_fill_(alike.mask(start, start + tile), LEFT_OUT)
        highest, index = logits.max(dim=1)
        best = torch.where(highest > peak, index + start, best)
        raised = torch.maximum(peak, highest)
        total = total * (peak - raised).exp() + (logits - raised[:, None]).exp_().sum(dim=1)
        peak = raised
    own = candidates[offset : offset + rows]
    target = torch.arange(offset, offset + rows, device=queries.device)
    return _Direction(
        peak + total.log(),
        scale * (queries * own).sum(dim=1),
        scale * (queries @ candidates.sum(dim=0)),
        (best == target).sum(),
    )


def _grads(
    ctx: Any, rows: Tensor, others: Tensor, scale: Tensor, log_sum: Tensor, column_log_sum: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradient of the sum over queries for `rows` (not yet times the scale), and of their own loss for the scale.

    `column_log_sum` belongs to the others as queries, for whom these rows are candidates: their logits are the
    same products, so one tile serves both.
    """
    hit = 1.0 - ctx.smoothing - ctx.share
    grad = torch.zeros_like(rows)
    scale_grad = scale.new_zeros(())
    for start in range(0, others.shape[0], ctx.tile):
        part = others[start : start + ctx.tile]
        cosine = rows @ part.t()
        errors = (scale * cosine - log_sum[:, None]).exp_().sub_(ctx.share)
        _subtract_diagonal(errors, ctx.offset - start, hit)
        mask = None if ctx.alike is None else ctx.alike.mask(start, start + ctx.tile)
        if mask is not None:
            errors.masked_fill_(mask, 0.0)
        scale_grad = scale_grad + (errors * cosine).sum()
        if column_log_sum is not None:
            column = (scale * cosine - column_log_sum[start : start + ctx.tile]).exp_().sub_(ctx.share)
            _subtract_diagonal(column, ctx.offset - start, hit)
            if mask is not None:
                column.masked_fill_(mask, 0.0)
            errors = errors.add_(column)
        grad.addmm_(errors, part)
    return grad, scale_grad


def _subtract_diagonal(errors: Tensor, shift: int, value: float) -> None:
    """Subtracts `value` where column = row + shift, in place."""
    low, high = max(0, -shift), min(errors.shape[0], errors.shape[1] - shift)
    if high > low:
        index = torch.arange(low, high, device=errors.device)
        errors[index, index + shift] -= value
