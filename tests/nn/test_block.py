"""The transformer block in training: a dropped branch is not computed, and nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from one_peace.nn.block import Block

SEGMENTS = [("text", 3), ("image", 4)]


def block_of(rate: float, layer_scale: float | None = 0.5) -> Block:
    torch.manual_seed(0)
    block = Block(32, 2, 48, ["text", "image"], layer_scale, rate)
    for parameter in block.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return block.train()


def inputs(bias_batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(bias_batch, 2, 7, 7, generator=generator)
    bias[-1, :, :, 5] = -math.inf  # a padded key
    return torch.randn(6, 7, 32, generator=generator).requires_grad_(), bias.requires_grad_()


def dense(block: Block, x: Tensor, bias: Tensor, masks: list[Tensor]) -> Tensor:
    """Every branch computed, then multiplied by 0 or 1 / (1 - rate): the textbook form."""
    for mask, scale, branch in (
        (masks[0], block.attention_scale, lambda x: block.attend(x, bias, None)),
        (masks[1], block.ffn_scale, lambda x: block.feed(x, SEGMENTS)),
    ):
        y = branch(x) * (mask / (1.0 - block.drop_path.rate))[:, None, None]
        x = x + (y if scale is None else scale * y)
    return x


@pytest.mark.parametrize("bias_batch", [1, 6])
@pytest.mark.parametrize("layer_scale", [0.5, None])
def test_dropped_branches_equal_branches_times_zero(bias_batch: int, layer_scale: float | None) -> None:
    block = block_of(0.5, layer_scale)
    results = []
    for dropping in (True, False):
        torch.manual_seed(3)
        x, bias = inputs(bias_batch)
        if dropping:
            y = block(x, bias, SEGMENTS)
        else:
            masks = [torch.empty(6).bernoulli_(0.5) for _ in range(2)]
            assert all(0 < mask.sum() < 6 for mask in masks)
            y = dense(block, x, bias, masks)
        block.zero_grad()
        y.square().sum().backward()
        results.append([y, x.grad, bias.grad, *(p.grad for p in block.parameters())])
    for ours, oracle in zip(*results, strict=True):
        assert ours is not None and oracle is not None
        torch.testing.assert_close(ours, oracle, atol=2e-5, rtol=1e-5)


def test_with_every_branch_dropped_nothing_changes_and_every_parameter_has_a_gradient() -> None:
    """A process whose parameters had none would not take part in the sums over processes."""
    block, (x, bias) = block_of(0.999999), inputs(1)
    y = block(x, bias, SEGMENTS)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


def test_nothing_is_dropped_outside_of_training() -> None:
    block, (x, bias) = block_of(0.9).eval(), inputs(1)
    torch.testing.assert_close(block(x, bias, SEGMENTS), block_of(0.0)(x, bias, SEGMENTS))
