"""Linear layers, with the faster of PyTorch's two libraries for products on this CPU."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

ROWS, MULTIPLICATIONS = 4, 2**20  # the least of a product for which starting oneDNN pays


class Linear(nn.Linear):
    """PyTorch's linear layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: (..., in), (out, in), (out) -> (..., out), as `torch.nn.functional.linear`.

    PyTorch gives float32 products on CPUs to MKL, which leaves half the width of an AMD processor's AVX-512 unused.
    There they go to oneDNN, which comes with PyTorch too: 2.2 times as fast on Zen 5, with other rounding of the last
    bits.
    """
    if goes_to_onednn(x, weight, bias):
        y: Tensor = _OneDnnLinear.apply(x, weight, bias)
        return y
    return F.linear(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad.T @ x: (rows, out), (rows, in) -> (out, in), what `linear` tells its weight of all rows."""
    learns = torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad)  # gradients of gradients are wanted
    if not learns and goes_to_onednn(grad.t(), x.t()):
        return _product(_fill_up(grad).t(), _fill_up(x).t())
    return grad.t() @ x


def goes_to_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `linear` gives these to oneDNN: plain float32 tensors with enough to multiply, where it is faster."""
    return (
        not torch.compiler.is_compiling()  # the compiler chooses for itself, and looks into what it meets before
        and onednn_is_faster()
        and all(_is_plain(tensor) for tensor in (x, weight, bias) if tensor is not None)
        and weight.dim() == 2
        and x.numel() * weight.shape[0] >= MULTIPLICATIONS
        and x.numel() >= ROWS * x.shape[-1]
        and x.shape[-1] == weight.shape[1]  # PyTorch's own words are for what does not fit
        and (bias is None or bias.shape == weight.shape[:1])
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()  # `vmap` and its like look into PyTorch's own alone
        and not is_in_torch_dispatch_mode()  # who counts or traces operators knows PyTorch's usual ones
    )


@cache
def onednn_is_faster() -> bool:
    """Whether this machine has an AMD processor with AVX-512, and a PyTorch with both libraries."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        processor = platform.processor()
    return "AuthenticAMD" in processor and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


def _is_plain(tensor: Tensor) -> bool:
    # not a subclass, such as a sharded tensor, whose operators are its own
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
    )


def _fill_up(x: Tensor) -> Tensor:
    """The rows of x, (rows, width), and zero rows up to a multiple of 8, of more from 2048 rows on.

    oneDNN compiles for every size that it is given, and keeps half a megabyte for each of the last 1024.
    """
    count, width = x.numel() // x.shape[-1], x.shape[-1]
    step = max(8, 2 ** (count.bit_length() - 8))  # batches of 8 are taken as they are, without a copy
    size = -(-count // step) * step
    if size == count:
        return x.reshape(count, width)
    filled = x.new_empty(size, width)
    filled[:count].view(x.shape).copy_(x)
    filled[count:] = 0
    return filled


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not (weight.is_contiguous() or weight.t().is_contiguous()):  # oneDNN would fall back to its slow reference
        weight = weight.contiguous()
    if bias is not None:
        bias = bias.contiguous()  # oneDNN would read what lies between its numbers
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


class _OneDnnLinear(torch.autograd.Function):
    """`F.linear`, forward and backward by oneDNN, which takes transposed matrices as they are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns_x, learns_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if learns_weight else None, weight if learns_x else None)
        y = _product(_fill_up(x), weight, bias)
        return y.resize_(*x.shape[:-1], len(weight))  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            linear(grad, weight.t()) if needs_x else None,
            weight_gradient(rows, x.reshape(-1, x.shape[-1])) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
