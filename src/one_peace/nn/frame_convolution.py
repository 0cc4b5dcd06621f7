"""A strided 1-D convolution in frames-by-channels layout, computed as matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.nn.linear import goes_to_onednn, linear, weight_gradient


class FrameConvolution(nn.Module):
    """Convolution without bias or padding over (batch, frames, channels).

    The weight has the usual layout (channels out, channels in, kernel). Kernels from one stride to two, those of all
    published front ends, are matrix products.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel))
        if not self.weight.is_meta:  # where normal_ would import PyTorch's compiler, for nothing
            nn.init.kaiming_normal_(self.weight)

    def matrix(self) -> Tensor:
        """The weight as (kernel * channels in, channels out)."""
        return self.weight.permute(2, 1, 0).reshape(-1, self.weight.shape[0])

    def forward(self, x: Tensor, matrix: Tensor | None = None) -> Tensor:
        """(batch, frames, channels_in) -> (batch, (frames - kernel) // stride + 1, channels_out).

        `matrix` is this layer's `matrix()`, for callers that need it many times.
        """
        if x.shape[1] < self.kernel:
            raise ValueError(f"{x.shape[1]} frames are shorter than the kernel {self.kernel}")
        matrix = self.matrix() if matrix is None else matrix
        if x.shape[2] == 1:  # the windows of a waveform are small beside the output: gather them, multiply once
            return linear(x.squeeze(2).unfold(1, self.kernel, self.stride), matrix.t())
        if torch.is_autocast_enabled(x.device.type):  # products in place cannot change their dtype themselves
            dtype = torch.get_autocast_dtype(x.device.type)
            x, matrix = x.to(dtype), matrix.to(dtype)
        if not self.stride <= self.kernel <= 2 * self.stride:
            return F.conv1d(x.transpose(1, 2), self.weight.to(x.dtype), stride=self.stride).transpose(1, 2)
        y: Tensor = _BlockProducts.apply(x.contiguous(), matrix, self.stride)
        return y


def _blocks(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Views of x (batch, frames, channels): each window's first `stride` frames, and the rest of its kernel.

    -> (batch, steps, stride * channels), (batch, steps, (kernel - stride) * channels).
    """
    batch, frames, channels = x.shape
    head = stride * channels
    tail = weight.shape[0] - head
    steps = (frames - weight.shape[0] // channels) // stride + 1
    strides = (frames * channels, head, 1)
    start = x.storage_offset()
    return (
        x.as_strided((batch, steps, head), strides, start),
        x.as_strided((batch, steps, tail), strides, start + (head if tail else 0)),
    )


class _BlockProducts(torch.autograd.Function):
    """A window of `kernel` frames is one block of `stride` frames plus the head of the next block: two products.

    Both read the input in place. Written out with its gradient because autograd would fill a zero tensor per view.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """x (batch, frames, channels) contiguous, weight (kernel * channels, out) -> (batch, steps, out)."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        heads, tails = _blocks(x, weight, stride)
        split = heads.shape[2]
        if goes_to_onednn(heads, weight[:split].t()):
            y = linear(heads, weight[:split].t())
            return y.add_(linear(tails, weight[split:].t())) if tails.shape[2] else y
        y = torch.bmm(heads, weight[:split].expand(x.shape[0], -1, -1))  # reads blocks in place, which `linear` copies
        if tails.shape[2]:
            y.baddbmm_(tails, weight[split:].expand(x.shape[0], -1, -1))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        heads, tails = _blocks(x, weight, ctx.stride)
        steps, split = heads.shape[1:]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            grad_heads, grad_tails = _blocks(grad_x, weight, ctx.stride)
            grad_x[:, steps * ctx.stride :] = 0
            grad_heads.copy_(linear(grad, weight[:split]))
            if tails.shape[2]:
                grad_tails += linear(grad, weight[split:])
        if ctx.needs_input_grad[1]:
            flat = grad.reshape(-1, grad.shape[2])
            parts = [weight_gradient(heads.reshape(-1, split), flat)]
            if tails.shape[2]:
                parts.append(weight_gradient(tails.reshape(-1, tails.shape[2]), flat))
            grad_weight = torch.cat(parts)
        return grad_x, grad_weight, None
