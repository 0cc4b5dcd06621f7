"""Resampling by a windowed sinc, tap for tap as the published audio processors do it (torchaudio's default)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CROSSINGS = 6  # of zero, of the sinc, on either side
ROLLOFF = 0.99  # of half the lower rate
MOST_TAPS = 1 << 24  # of all phases together, 128 MiB: rates without a common divisor have one phase per sample


def resample(waveform: Tensor, rate: int, wanted: int) -> Tensor:
    """(n,) float32 at `rate` Hz -> (ceil(n * wanted / rate),) at `wanted` Hz.

    Rates whose ratio needs more than `MOST_TAPS` filter taps (44101 Hz, say) are resampled by soxr instead, which is no
    worse but does not give the same numbers.
    """
    if rate == wanted:
        return waveform
    divisor = math.gcd(rate, wanted)
    before, after = rate // divisor, wanted // divisor
    length = math.ceil(after * len(waveform) / before)
    if after * (before + 2 * _reach(before, after)) > MOST_TAPS:
        import soxr

        resampled = torch.from_numpy(soxr.resample(waveform.numpy(), rate, wanted))
        return F.pad(resampled, (0, max(0, length - len(resampled))))[:length]
    taps = _taps(before, after)  # (phases, 1, taps)
    reach = _reach(before, after)
    padded = F.pad(waveform[None, None], (reach, reach + before))
    return F.conv1d(padded, taps, stride=before)[0].t().reshape(-1)[:length]


def _reach(before: int, after: int) -> int:
    return math.ceil(CROSSINGS * before / (min(before, after) * ROLLOFF))


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _taps(before: int, after: int) -> Tensor:
    """A filter for each of the `after` phases."""
    cutoff, reach = min(before, after) * ROLLOFF, _reach(before, after)
    phases = torch.arange(0, -after, -1, dtype=torch.float32, device="cpu")[:, None, None] / after  # as published
    times = (phases + torch.arange(-reach, reach + before, dtype=torch.float64, device="cpu") / before) * cutoff
    times = times.clamp(-CROSSINGS, CROSSINGS)
    window = torch.cos(times * math.pi / CROSSINGS / 2) ** 2
    return (torch.sinc(times) * window * (cutoff / before)).float()
