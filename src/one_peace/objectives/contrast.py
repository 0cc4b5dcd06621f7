"""Cross-modal contrast: paired samples of two modalities attract, all others repel (paper, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from one_peace.objectives.smoothing import count_correct, smoothed_cross_entropy


@dataclass(frozen=True)
class ContrastResult:
    """Loss (scalar) and the number of queries whose own partner scored highest, in both directions."""

    loss: Tensor
    first_to_second_correct: Tensor
    second_to_first_correct: Tensor


def cross_modal_contrast(
    first: Tensor,
    second: Tensor,
    logit_scale: Tensor | float,
    smoothing: float = 0.0,
    all_first: Tensor | None = None,
    all_second: Tensor | None = None,
    offset: int = 0,
    alike: Tensor | None = None,
) -> ContrastResult:
    """Symmetric InfoNCE over unit-length features (batch, dim); row i of both belongs together.

    `all_first`, `all_second` (global, dim) are the candidates gathered from all processes, with this process's
    rows starting at `offset`; they default to the local features. Candidates are detached: gradient reaches a
    feature as a query only, which is the published rule. `alike` (batch, global) bool are candidates that are no
    negatives of a row, its own partner not among them.
    """
    candidates_first = (first if all_first is None else all_first).detach()
    candidates_second = (second if all_second is None else all_second).detach()
    target = offset + torch.arange(first.shape[0], device=first.device)
    forward = logit_scale * first @ candidates_second.t()
    backward = logit_scale * second @ candidates_first.t()
    allowed = None
    if alike is not None:
        allowed = ~alike
        forward, backward = forward.masked_fill(alike, -torch.inf), backward.masked_fill(alike, -torch.inf)
    losses = [smoothed_cross_entropy(logits, target, smoothing, allowed) for logits in (forward, backward)]
    return ContrastResult((losses[0] + losses[1]) / 2, count_correct(forward, target), count_correct(backward, target))
