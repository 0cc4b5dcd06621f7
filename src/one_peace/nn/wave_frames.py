"""The convolutional front end on waveforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from one_peace.nn.activation import gelu_reusing
from one_peace.nn.frame_convolution import FrameConvolution

EARLY_STEPS = 3  # they hold seven eighths of the activations
PIECE = 512  # frames after the early steps that are computed together without gradient: a few megabytes


class WaveFrames(nn.Module):
    """Waveform (batch, samples) -> frames (batch, frames, channels); each step: convolution, layer norm, GELU.

    The layout is frames by channels throughout, so that the norms read contiguous memory and every
    convolution is a matrix product.
    """

    def __init__(self, convs: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        channels = [1] + [c for c, _, _ in convs]
        self.convs = nn.ModuleList(
            FrameConvolution(before, after, kernel, stride)
            for before, (after, kernel, stride) in zip(channels, convs, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c, _, _ in convs)
        self.shapes = [(kernel, stride) for _, kernel, stride in convs]

    def forward(self, waveform: Tensor) -> Tensor:
        x = waveform[:, :, None]
        early = min(EARLY_STEPS, len(self.convs) - 1)
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        matrices = [conv.matrix() for conv in self.convs if isinstance(conv, FrameConvolution)]
        if x.device.type == "cpu" and not trained:
            x = self._pieces(x, matrices[:early])
            return self._steps(x, matrices[early:], early)
        return self._steps(x, matrices)

    def _steps(self, x: Tensor, matrices: Sequence[Tensor], first: int = 0) -> Tensor:
        """The steps from `first` on, as many as there are matrices."""
        last = first + len(matrices)
        for conv, matrix, norm in zip(self.convs[first:last], matrices, self.norms[first:last], strict=True):
            x = gelu_reusing(norm(conv(x, matrix)))
        return x

    def _pieces(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        """The first steps, clip by clip and piece by piece, so that activations stay in the CPU's cache."""
        length, reach, stride = x.shape[1], 1, 1  # one frame after these steps sees `reach` samples
        for kernel, step in self.shapes[: len(matrices)]:
            length = (length - kernel) // step + 1
            reach += (kernel - 1) * stride
            stride *= step
        if length < 1:
            raise ValueError(f"a clip of {x.shape[1]} samples is too short for the audio front end")
        clips = []
        for clip in x.split(1):
            starts = range(0, length, PIECE)
            ends = [min(start + PIECE, length) - 1 for start in starts]
            pieces = [clip[:, a * stride : b * stride + reach] for a, b in zip(starts, ends, strict=True)]
            clips.append(torch.cat([self._steps(piece, matrices) for piece in pieces], dim=1))
        return torch.cat(clips)
