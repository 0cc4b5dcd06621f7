"""Overlaps of boxes against counted cells, and the loss of grounding at its edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from one_peace.objectives.boxes import box_iou, generalized_iou, grounding_loss, valid_boxes

Corners = tuple[int, int, int, int]  # left, top, width, height
corners = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8))


def cells(box: Tensor) -> set[tuple[int, int]]:
    x0, y0, x1, y1 = (int(v) for v in box)
    return {(x, y) for x in range(x0, x1) for y in range(y0, y1)}


def box(values: Corners) -> Tensor:
    x, y, width, height = values
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)


@given(corners, corners)
def test_overlaps_are_those_of_counted_cells(
    first: tuple[int, int, int, int], second: tuple[int, int, int, int]
) -> None:
    a, b = box(first), box(second)
    both, either = cells(a[0]) & cells(b[0]), cells(a[0]) | cells(b[0])
    hull = cells(torch.cat([torch.minimum(a, b)[0, :2], torch.maximum(a, b)[0, 2:]]))
    iou = len(both) / len(either)
    assert box_iou(a, b).item() == pytest.approx(iou, abs=1e-6)
    assert generalized_iou(a, b).item() == pytest.approx(iou - (len(hull) - len(either)) / len(hull), abs=1e-6)


def test_empty_boxes_overlap_nothing() -> None:
    empty = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.5, 0.5, 0.2, 0.2]])
    assert box_iou(empty, empty).tolist() == [0.0, 0.0]
    assert valid_boxes(empty).tolist() == [False, False]


def test_a_perfect_box_costs_nothing() -> None:
    target = torch.tensor([[0.1, 0.2, 0.6, 0.9]])
    assert grounding_loss(target, target).item() == pytest.approx(0, abs=1e-6)


def test_boxes_inside_out_enter_by_distance_alone() -> None:
    target = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).repeat(2, 1)
    turned = target[:, [2, 3, 0, 1]].clone().requires_grad_()
    loss = grounding_loss(turned, target)
    loss.backward()
    assert loss.item() == pytest.approx(2 * (0.5 + 0.7), abs=1e-6)
    assert torch.isfinite(turned.grad).all()
    assert grounding_loss(turned, target, published=True).isnan()


def test_one_box_inside_out_spoils_no_other() -> None:
    target = torch.tensor([[0.1, 0.2, 0.6, 0.9]]).repeat(2, 1)
    predicted = target.clone()
    predicted[1] = target[1, [2, 3, 0, 1]]
    assert grounding_loss(predicted, target).item() == pytest.approx(0.5 + 0.7, abs=1e-6)
