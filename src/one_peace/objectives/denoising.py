"""Denoising contrast: a masked position must resemble the teacher's feature of that position (paper, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 2**24  # logits held at a time: 64 MiB


def denoising_contrast(
    student: Tensor,
    teacher: Tensor,
    masked: Tensor,
    padding: Tensor | None = None,
    logit_scale: float = 2.5,
    smoothing: float = 0.1,
) -> Tensor:
    """Scalar loss over the masked positions of a local batch.

    student, teacher (batch, tokens, dim) with the cls position first, which takes no part; masked (batch, tokens)
    bool; padding (batch, tokens) bool, True = padding. Negatives are all non-padding positions of the batch.
    The teacher gets no gradient. Without a masked position, or with nothing to tell it from, the loss is 0: a batch
    of the shortest captions has no token to hide.
    """
    dim = student.shape[-1]
    masked = masked[:, 1:].flatten()
    student = student[:, 1:].reshape(-1, dim)
    keys = teacher[:, 1:].detach().reshape(-1, dim)
    rows = masked.nonzero().squeeze(1)
    target = rows
    if padding is not None:
        real = ~padding[:, 1:].flatten()
        rows = (masked & real).nonzero().squeeze(1)
        target = real.cumsum(0)[rows] - 1
        keys = keys[real]
    if len(rows) == 0 or len(keys) == 1:
        return student.float().sum() * 0.0
    queries = F.normalize(student[rows].float(), dim=1).to(student.dtype)
    keys = F.normalize(keys.float(), dim=1).to(teacher.dtype)
    loss: Tensor = _FixedKeys.apply(queries, keys, target, logit_scale, smoothing)
    return loss


class _FixedKeys(torch.autograd.Function):
    """`smoothed_cross_entropy(scale * queries @ keys.t(), target, smoothing)` for keys without gradient, in tiles.

    All of a query's logits are in one tile, so its gradient is found together with its loss: nothing of the size of
    the logits is kept, and nothing is computed twice.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, target: Tensor, scale: float, smoothing: float) -> Tensor:
        count, classes = queries.shape[0], keys.shape[0]
        share = smoothing / (classes - 1)
        hit = 1.0 - smoothing - share
        total = queries.new_zeros((), dtype=torch.float32)
        grads = []
        step = max(1, TILE // classes)
        for some, own in zip(queries.split(step), target.split(step), strict=True):
            log_probs = F.log_softmax((scale * some @ keys.t()).float(), dim=1)
            total -= hit * log_probs.gather(1, own[:, None]).sum()
            if smoothing:
                total -= share * log_probs.sum()
            if ctx.needs_input_grad[0]:
                errors = log_probs.exp_().sub_(share)
                errors[torch.arange(len(own), device=own.device), own] -= hit
                grads.append((errors.to(keys.dtype) @ keys).mul_(scale / count).to(queries.dtype))
        ctx.save_for_backward(*grads)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        saved = ctx.saved_tensors
        return torch.cat(saved) * grads[0].to(saved[0].dtype), None, None, None, None
