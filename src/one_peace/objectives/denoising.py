"""Denoising contrast: a masked position must resemble the teacher's feature of that position (paper, section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from one_peace.objectives.smoothing import smoothed_cross_entropy


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
    student = student[:, 1:].reshape(-1, dim)
    teacher = teacher[:, 1:].detach().reshape(-1, dim)
    masked = masked[:, 1:].flatten()
    if padding is not None:
        real = ~padding[:, 1:].flatten()
        student, teacher, masked = student[real], teacher[real], masked[real]
    rows = masked.nonzero().squeeze(1)
    if len(rows) == 0 or len(student) == 1:
        return student.float().sum() * 0.0
    queries = F.normalize(student[rows].float(), dim=1).to(student.dtype)
    keys = F.normalize(teacher.float(), dim=1).to(teacher.dtype)
    return smoothed_cross_entropy(logit_scale * queries @ keys.t(), rows, smoothing)
