from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from one_peace.nn import linear as module
from one_peace.nn.frame_convolution import FrameConvolution
from one_peace.nn.linear import Linear, goes_to_onednn, linear, onednn_is_faster, weight_gradient
from one_peace.training.cost import FlopCount

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@contextmanager
def everything_to_onednn() -> Iterator[None]:
    """As on a machine where it is faster, however small the product."""
    with (
        mock.patch.object(module, "onednn_is_faster", return_value=True),
        mock.patch.multiple(module, ROWS=0, MULTIPLICATIONS=0),
    ):
        yield


def strided(x: Tensor, layout: str) -> Tensor:
    """The same values in another order of memory, or with gaps."""
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return torch.cat([x, x], dim=-1)[..., : x.shape[-1]] if layout == "gaps" else x


@needs_onednn
@everything_to_onednn()
@settings(max_examples=60, deadline=None)
@given(
    leading=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    biased=st.booleans(),
    layouts=st.tuples(*[st.sampled_from(["plain", "transposed", "gaps"])] * 4),
    learns=st.tuples(st.booleans(), st.booleans()),
)
def test_onednn_computes_the_same_and_its_gradients(
    leading: list[int],
    sizes: tuple[int, int],
    biased: bool,
    layouts: tuple[str, str, str, str],
    learns: tuple[bool, bool],
) -> None:
    x = strided(torch.randn(*leading, sizes[0]), layouts[0]).requires_grad_(learns[0])
    weight = strided(torch.randn(sizes[1], sizes[0]), layouts[1]).requires_grad_(learns[1])
    bias = strided(torch.randn(sizes[1], 1), layouts[3])[:, 0].requires_grad_(learns[1]) if biased else None
    assert goes_to_onednn(x, weight, bias)
    ours, theirs = linear(x, weight, bias), F.linear(x, weight, bias)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    learning = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
    assert ours.requires_grad == bool(learning)
    if learning:
        upstream = strided(torch.randn_like(ours), layouts[2])
        grads = [torch.autograd.grad(y, learning, upstream) for y in (ours, theirs)]
        for our_grad, their_grad in zip(*grads, strict=True):
            torch.testing.assert_close(our_grad, their_grad, atol=1e-4, rtol=1e-5)


@needs_onednn
@everything_to_onednn()
def test_gradients_of_gradients() -> None:
    layer, x = Linear(16, 8), torch.randn(3, 5, 16, requires_grad=True)

    def penalty(y: Tensor) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad(y.tanh().sum(), (x, layer.weight), create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (x, layer.weight))

    theirs = penalty(F.linear(x, layer.weight, layer.bias))
    for our_grad, their_grad in zip(penalty(layer(x)), theirs, strict=True):
        torch.testing.assert_close(our_grad, their_grad, atol=1e-4, rtol=1e-4)


@needs_onednn
@everything_to_onednn()
def test_nothing_is_kept_for_what_is_not_trained_and_results_can_be_changed() -> None:
    layer, x = Linear(16, 32), torch.randn(3, 3, 16, requires_grad=True)
    layer.weight.requires_grad_(False)
    before = 1 * x
    y = layer(before)
    before.zero_()  # a frozen weight needs no inputs
    y.mul_(2).sum().backward()
    torch.testing.assert_close(x.grad, (2 * layer.weight.sum(0)).expand_as(x))


@needs_onednn
@everything_to_onednn()
@pytest.mark.parametrize("rows", [1, 33, 1000, 2050])
def test_the_gradient_of_a_weight(rows: int) -> None:
    grad, x = torch.randn(rows, 24), torch.randn(rows, 40)
    # the sums have a spread of sqrt(rows); the two libraries add in other orders
    torch.testing.assert_close(weight_gradient(grad, x), grad.t() @ x, atol=1e-5 * rows**0.5, rtol=1e-5)


@needs_onednn
@everything_to_onednn()
@pytest.mark.parametrize(("kernel", "stride", "channels"), [(10, 5, 1), (3, 2, 16), (2, 2, 16)])
def test_convolutions_of_frames(kernel: int, stride: int, channels: int) -> None:
    layer = FrameConvolution(channels, 24, kernel, stride)
    x = torch.randn(3, 101, channels, requires_grad=True)
    ours, theirs = layer(x), F.conv1d(x.transpose(1, 2), layer.weight, stride=stride).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    upstream = torch.randn_like(ours)
    grads = [torch.autograd.grad(y, (x, layer.weight), upstream) for y in (ours, theirs)]
    for our_grad, their_grad in zip(*grads, strict=True):
        torch.testing.assert_close(our_grad, their_grad, atol=1e-4, rtol=1e-5)


@needs_onednn
@everything_to_onednn()
def test_other_numbers_and_onlookers_get_what_pytorch_computes() -> None:
    layer, x = Linear(16, 32), torch.randn(8, 16)
    assert goes_to_onednn(x, layer.weight, layer.bias)
    assert not goes_to_onednn(x.double(), layer.weight.double())
    assert not goes_to_onednn(x.bfloat16(), layer.weight.bfloat16())
    assert not goes_to_onednn(x.to("meta"), layer.weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    with FlopCount() as counter:
        layer(x)
    assert counter.total == 2 * 8 * 16 * 32  # nothing is filled up
    assert "aten.linear" in torch.export.export(layer, (x,)).graph_module.code.replace("torch.ops.", "")
    assert not goes_to_onednn(x.to_sparse(), layer.weight)
    assert linear(x, layer.weight[0]).shape == (8,)
    own = torch.func.vmap(torch.func.grad(lambda weight, row: linear(row, weight).sum()), in_dims=(None, 0))
    torch.testing.assert_close(own(layer.weight, x), x[:, None].expand(8, 32, 16))


@needs_onednn
@everything_to_onednn()
def test_the_compiler_does_not_look_at_the_processor() -> None:
    """It would follow how files are read, or warn that it cannot."""
    layer, x = Linear(4, 3), torch.randn(2, 4)
    with mock.patch.object(module, "onednn_is_faster", side_effect=AssertionError("looked")):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), F.linear(x, layer.weight, layer.bias))


def test_what_does_not_fit_is_refused_in_pytorchs_words() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(torch.zeros(8, 15), torch.zeros(32, 16))
    with pytest.raises(RuntimeError, match="size"):
        linear(torch.zeros(8, 16), torch.zeros(32, 16), torch.zeros(31))


def test_small_products_stay_where_they_are() -> None:
    with mock.patch.object(module, "onednn_is_faster", return_value=True):
        assert not goes_to_onednn(torch.empty(3, 4096), torch.empty(4096, 4096))  # three rows
        assert not goes_to_onednn(torch.empty(100, 64), torch.empty(64, 64))
        assert goes_to_onednn(torch.empty(256, 64), torch.empty(64, 64))


@pytest.mark.parametrize(
    ("maker", "instructions", "faster"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_it_depends_on_the_processor(maker: str, instructions: str, faster: bool) -> None:
    with (
        mock.patch("torch.backends.cpu.get_cpu_capability", return_value=instructions),
        mock.patch("torch.backends.mkl.is_available", return_value=True),
        mock.patch("torch.backends.mkldnn.is_available", return_value=True),
        mock.patch.object(Path, "read_text", return_value=f"processor\t: 0\nvendor_id\t: {maker}\n"),
    ):
        assert onednn_is_faster.__wrapped__() == faster
