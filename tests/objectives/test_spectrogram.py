"""The log-mel target: where a tone lands, and what the loss calls a good prediction."""

from __future__ import annotations

import math

import pytest
import torch

from one_peace.objectives.spectrogram import BANDS, HOP, WINDOW, log_mel, mel_bands, spectrogram_loss

RATE = 16000


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("hertz", [150.0, 400.0, 1000.0, 3000.0, 6500.0])
def test_a_tone_is_loudest_in_the_band_around_it(hertz: float) -> None:
    bands = mel_bands(RATE)
    frequencies = torch.arange(WINDOW // 2 + 1) * RATE / WINDOW
    nearest = int((frequencies - hertz).abs().argmin())
    loudest = int(log_mel(tone(hertz)[None], RATE)[0].mean(0).argmax())
    assert bands[loudest, nearest] == bands[:, nearest].max()


def test_one_column_every_twenty_milliseconds() -> None:
    assert log_mel(torch.randn(2, RATE), RATE).shape == (2, (RATE - WINDOW) // HOP + 1, BANDS)


def test_silence_is_finite() -> None:
    silent = torch.zeros(2, RATE)
    assert log_mel(silent, RATE).isfinite().all()
    assert spectrogram_loss(torch.zeros(2, 25, 2 * BANDS), silent, RATE, 2 * HOP).item() < 1e-3


def test_the_loss_is_the_share_left_unexplained() -> None:
    waveform = torch.randn(3, RATE, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 1, RATE)
    frames = 24  # of 40 ms: two columns each
    target = log_mel(waveform, RATE)[:, : 2 * frames]
    target = target - target.mean((0, 1))
    target = (target / target.square().mean((0, 1)).sqrt()).reshape(3, frames, 2 * BANDS)
    assert spectrogram_loss(target, waveform, RATE, 2 * HOP).item() < 1e-9
    assert spectrogram_loss(torch.zeros_like(target), waveform, RATE, 2 * HOP).item() == pytest.approx(1.0, abs=1e-5)
    assert spectrogram_loss(0.5 * target, waveform, RATE, 2 * HOP).item() == pytest.approx(0.25, abs=1e-5)


def test_frames_past_the_last_window_are_padded() -> None:
    waveform = torch.randn(1, 2 * HOP * 10)
    assert spectrogram_loss(torch.zeros(1, 10, 2 * BANDS), waveform, RATE, 2 * HOP).isfinite()
