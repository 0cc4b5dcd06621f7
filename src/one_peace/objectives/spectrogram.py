"""The log-mel spectrogram, a target for the audio front end: frames that predict it have learned to hear pitch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BANDS = 40
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
WINDOW, HOP = 512, 320  # samples: 32 ms every 20 ms
FLOOR = 1e-3  # power of silence, for waveforms normalised to unit variance


def spectrogram_loss(predicted: Tensor, waveform: Tensor, sample_rate: int, stride: int) -> Tensor:
    """Share of the spectrogram's variance that a prediction leaves unexplained (scalar; 1 predicts the mean).

    `predicted` (batch, frames, columns * BANDS): frame i stands for the `stride // HOP` columns from sample
    `i * stride` on, of `waveform` (batch, samples). The target is standardised by band over the batch.
    """
    batch, frames, _ = predicted.shape
    columns = stride // HOP
    padded = F.pad(waveform, (0, max(0, (frames * columns - 1) * HOP + WINDOW - waveform.shape[1])))
    target = log_mel(padded, sample_rate)[:, : frames * columns]
    centred = target - target.mean(dim=(0, 1))
    target = centred / centred.square().mean(dim=(0, 1)).sqrt().clamp(min=1e-4)
    return (predicted - target.reshape(batch, frames, -1)).square().mean()


def log_mel(waveform: Tensor, sample_rate: int) -> Tensor:
    """(batch, samples) -> (batch, columns, BANDS), natural logarithm of the power in triangular mel bands."""
    window = torch.hann_window(WINDOW, device=waveform.device)
    spectrum = torch.stft(waveform, WINDOW, HOP, window=window, center=False, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (mel_bands(sample_rate).to(waveform.device) @ power).clamp(min=FLOOR).log().transpose(1, 2)


@lru_cache
def mel_bands(sample_rate: int) -> Tensor:
    """Triangles of height 1, evenly spaced on the mel scale -> (BANDS, WINDOW // 2 + 1)."""

    def mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    marks = torch.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2, dtype=torch.float64)
    corners = 700.0 * (10.0 ** (marks / 2595.0) - 1.0)
    lower, centre, upper = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    hertz = torch.arange(WINDOW // 2 + 1) * sample_rate / WINDOW
    triangles = torch.minimum((hertz - lower) / (centre - lower), (upper - hertz) / (upper - centre))
    return triangles.clamp(min=0.0).float()
