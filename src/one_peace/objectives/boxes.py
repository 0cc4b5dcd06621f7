"""Boxes as (x0, y0, x1, y1): overlap, generalised overlap (arXiv 1902.09630), and the loss of visual grounding."""

from __future__ import annotations

import torch
from torch import Tensor


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) row by row -> (n,); 0 for boxes without area."""
    intersection, union, _ = _areas(first, second)
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the share of the smallest enclosing box that neither covers, row by row: (n, 4), (n, 4) -> (n,)."""
    intersection, union, enclosing = _areas(first, second)
    return intersection / union - (enclosing - union) / enclosing


def valid_boxes(boxes: Tensor) -> Tensor:
    """Whether x0 < x1 and y0 < y1: (n, 4) -> (n,) bool."""
    return (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def grounding_loss(predicted: Tensor, target: Tensor, published: bool = False) -> Tensor:
    """L1 distance summed over the coordinates, plus one minus generalised IoU: means over the batch, in float32.

    predicted, target (batch, 4), relative to the picture. Boxes predicted inside out have no overlap to speak of and
    enter by L1 alone. Where all are, the published code is not a number; here the second term is then 0, and with
    `published` it is not.
    """
    predicted, target = predicted.float(), target.float()
    distance = (predicted - target).abs().sum() / predicted.shape[0]
    valid = valid_boxes(predicted)
    if not published and not bool(valid.any()):
        return distance
    return distance + (1 - generalized_iou(predicted[valid], target[valid])).mean()


def _areas(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of the intersection, the union and the smallest enclosing box."""

    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)

    def span(corner: Tensor, opposite: Tensor) -> Tensor:
        return (opposite - corner).clamp(min=0).prod(dim=1)

    intersection = span(torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:]))
    enclosing = span(torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:]))
    return intersection, area(first) + area(second) - intersection, enclosing
