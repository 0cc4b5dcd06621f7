"""The codebook of a fresh VQGAN, made of clusters of its encoder's features.

Codes that are drawn by fresh scores say nothing of a picture. The decoder first learns to take no notice of them, so
that the encoder is not told what they would be good for, and few codes ever come into use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from one_peace.models.vqgan.model import Vqgan
from one_peace.training.initial_values import assign

ROUNDS = 12  # of moving the centres
SHARPNESS = 8.0  # of the choice between codes, where the mean squared distance to the nearest one is 1


def find_codebook(model: Vqgan, features: Tensor, generator: torch.Generator) -> None:
    """Makes entries of the codebook of features (places, code width), and scores that prefer the nearest entry.

    A place's logits are the squared distances from its features to all entries, negative and scaled, so that its most
    probable code is that of the nearest one.
    """
    centres, left = clusters(features.float().cpu(), model.config.codes, generator)
    scale = SHARPNESS / max(left, 1e-12)
    parameters = dict(model.named_parameters())
    assign(parameters["codebook.weight"], centres)
    assign(parameters["scores.weight"], 2 * scale * centres[:, :, None, None])
    assign(parameters["scores.bias"], -scale * centres.square().sum(dim=1))


def clusters(points: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, float]:
    """Centres (count, width) of points (n, width), and the mean squared distance to the nearest: k-means, from points
    drawn in proportion to their squared distance to those drawn before (k-means++)."""
    distance = torch.full((len(points),), torch.inf)
    centres = points[:1]
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - centres[-1]).square().sum(dim=1))
        weights = distance if bool(distance.any()) else torch.ones_like(distance)  # fewer different points than centres
        drawn = torch.multinomial(weights, 1, generator=generator)
        centres = torch.cat([centres, points[drawn]])
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        members = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
    return centres, float(torch.cdist(points, centres).amin(dim=1).square().mean())
