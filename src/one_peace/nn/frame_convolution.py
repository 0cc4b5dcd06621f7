"""A strided 1-D convolution in frames-by-channels layout, computed as matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrameConvolution(nn.Module):
    """Convolution without bias or padding over (batch, frames, channels), kernel at most twice the stride.

    The weight has the usual layout (channels out, channels in, kernel).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        if not stride <= kernel <= 2 * stride:
            raise ValueError(f"kernel {kernel} must lie between stride {stride} and twice the stride")
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels_in) -> (batch, (frames - kernel) // stride + 1, channels_out)."""
        channels_out, channels, kernel = self.weight.shape
        steps = (x.shape[1] - kernel) // self.stride + 1
        if steps < 1:
            raise ValueError(f"{x.shape[1]} frames are shorter than the kernel {kernel}")
        blocks = steps + (kernel > self.stride)
        missing = blocks * self.stride - x.shape[1]
        x = nn.functional.pad(x, (0, 0, 0, missing)) if missing > 0 else x[:, : blocks * self.stride]
        rows = x.reshape(x.shape[0], blocks, self.stride * channels)
        weight = self.weight.permute(2, 1, 0).reshape(kernel * channels, channels_out)
        y: Tensor = _BlockProducts.apply(rows, weight, steps)
        return y


class _BlockProducts(torch.autograd.Function):
    """A window of `kernel` frames is one block of `stride` frames plus the head of the next block: two products.

    Written out with its gradient because slicing under autograd would fill a zero tensor per slice.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, steps: int) -> Tensor:
        """rows (batch, blocks, stride * channels), weight (kernel * channels, out) -> (batch, steps, out)."""
        ctx.save_for_backward(rows, weight)
        ctx.steps = steps
        split = rows.shape[2]
        y = rows[:, :steps] @ weight[:split]
        if weight.shape[0] > split:
            tail = weight.shape[0] - split
            y += rows[:, 1:, :tail] @ weight[split:]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        rows, weight = ctx.saved_tensors
        steps, split = ctx.steps, rows.shape[2]
        tail = weight.shape[0] - split
        flat = grad.reshape(-1, grad.shape[2])
        grad_rows = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_rows = torch.empty_like(rows)
            grad_rows[:, :steps] = grad @ weight[:split].t()
            grad_rows[:, steps:] = 0
            if tail:
                grad_rows[:, 1:, :tail] += grad @ weight[split:].t()
        if ctx.needs_input_grad[1]:
            parts = [rows[:, :steps].reshape(-1, split).t() @ flat]
            if tail:
                parts.append(rows[:, 1:, :tail].reshape(-1, tail).t() @ flat)
            grad_weight = torch.cat(parts)
        return grad_rows, grad_weight, None
