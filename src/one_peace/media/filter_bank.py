"""Log-mel filter banks as Kaldi computes them (`compute-fbank-feats`, without dither), in float32."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

LOWEST = 20.0  # Hz; the highest filter ends at half the rate
FRAME, SHIFT = 0.025, 0.010  # seconds
PREEMPHASIS = 0.97
SILENCE = torch.finfo(torch.float32).eps  # energies are not below this before the logarithm
_SCALAR = 16  # last values of a window, whose power is the scalar one

FrameWindow = Literal["povey", "hann"]


def log_mel(waveform: Tensor, bins: int, *, rate: int = 16_000, window: FrameWindow = "povey") -> Tensor:
    """Log energies in `bins` mel bands of frames of 25 ms, one every 10 ms.

    Every frame lies inside the waveform, so the end of it may be in none. Each has its mean taken off, is
    pre-emphasised and windowed; energies are of the power spectrum.

    Args:
        waveform: (n,) float32 at `rate` Hz; Kaldi's own scale is that of 16-bit integers.
        window: "povey" is Kaldi's, a Hann window to the power of 0.85.

    Returns:
        (1 + (n - frame) // shift, bins) float32.

    Raises:
        ValueError: shorter than a frame.
    """
    frame, shift = int(rate * FRAME), int(rate * SHIFT)
    if waveform.dim() != 1 or len(waveform) < frame:
        raise ValueError(f"a waveform of shape {tuple(waveform.shape)}: needs (n,), {frame} samples or more")
    frames = waveform.float().unfold(0, frame, shift)  # (frames, samples)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - PREEMPHASIS * before) * _window(window, frame)
    length = 1 << (frame - 1).bit_length()
    power = torch.fft.rfft(frames, n=length).abs().pow(2.0)  # (frames, length / 2 + 1)
    energies = power[:, :-1] @ mel_filters(bins, length, rate).t()
    return energies.clamp_min(SILENCE).log()


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what encoding leaves in the cache must serve training too
def mel_filters(bins: int, length: int = 512, rate: int = 16_000) -> Tensor:
    """Triangles, on the mel scale, over the bins of a Fourier transform of `length` samples.

    Where bands are narrower than a bin of the transform, some have none: their energy is always `SILENCE`.

    Returns:
        (bins, length / 2) float32; the bin at half the rate belongs to no band.
    """
    if bins < 4:
        raise ValueError(f"at least 4 mel bands, got {bins}")
    low, high = _mel(LOWEST), _mel(rate / 2)
    step = (high - low) / (bins + 1)
    # float32 throughout, as Kaldi: next to the foot of a triangle the order of operations can be seen.
    bands, frequencies = (torch.arange(n, dtype=torch.float32, device="cpu") for n in (bins, length // 2))
    left, centre, right = (low + (bands[:, None] + edge) * step for edge in (0.0, 1.0, 2.0))
    places = 1127.0 * (1.0 + (rate / length * frequencies) / 700.0).log()
    rising, falling = (places - left) / (centre - left), (right - places) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0.0)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def _window(kind: FrameWindow, length: int) -> Tensor:
    hann = torch.hann_window(length, periodic=False, dtype=torch.float32, device="cpu")
    if kind == "hann":
        return hann
    # PyTorch's vector and scalar powers differ in the last bit, which weak bands show in the fifth decimal, and how
    # many values are left to the scalar one depends on the processor: with AVX-512, where our reference numbers come
    # from, the last 16.
    return torch.cat([hann[:-_SCALAR].pow(0.85), hann[-_SCALAR:].double().pow(0.85).float()])
