from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.nn.frame_convolution import FrameConvolution


@settings(max_examples=40, deadline=None)
@given(
    stride=st.integers(1, 5),
    overlap=st.integers(0, 8),
    frames=st.integers(1, 60),
    channels=st.integers(1, 4),
    batch=st.integers(1, 3),
)
def test_equals_the_ordinary_convolution(stride: int, overlap: int, frames: int, channels: int, batch: int) -> None:
    kernel = max(1, stride + overlap - 2)  # from below the stride to more than twice of it
    layer = FrameConvolution(channels, 3, kernel, stride).double()
    x = torch.randn(batch, max(frames, kernel), channels, dtype=torch.float64, requires_grad=True)
    ours = layer(x)
    theirs = F.conv1d(x.transpose(1, 2), layer.weight, stride=stride).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    grads = [torch.autograd.grad(y, (x, layer.weight), upstream) for y in (ours, theirs)]
    for ours_grad, theirs_grad in zip(*grads, strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="9 frames are shorter than the kernel 10"):
        FrameConvolution(1, 4, 10, 5)(torch.zeros(1, 9, 1))
