"""Packages of frozen teachers as they are fetched, with small or made-up weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from one_peace.training.teachers.picture_teacher import PictureTeacher

REFERENCE = Path(__file__).parents[1] / "training" / "teachers" / "reference"


def picture_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Values for a picture teacher, as the reference numbers were made with."""
    values = {}
    for name, value in sorted(PictureTeacher().state_dict().items()):
        if name.endswith("num_batches_tracked"):
            values[name] = value
            continue
        drawn = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            drawn = drawn.abs() + 0.5
        elif drawn.ndim == 4:
            drawn *= (2 / drawn[0].numel()) ** 0.5
        else:
            drawn = 0.1 * drawn + name.endswith(".weight")
        values[name] = drawn
    return values
