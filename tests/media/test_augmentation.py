"""Strength scales augmentation; without any, pictures are only flipped and sounds are left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from one_peace.media.augmentation import (
    LONGEST_SILENCE,
    TEMPO,
    augment_pictures,
    augment_waveform,
    change_recording,
    stretch,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_strength_only_flips() -> None:
    pictures = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8, generator=generator())
    made = augment_pictures(pictures, 32, generator(1), strength=0.0)
    plain = pictures / 255.0
    kept = [torch.allclose(a, b, atol=1e-5) for a, b in zip(made, plain, strict=True)]
    flipped = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(made, plain, strict=True)]
    assert all(k != f for k, f in zip(kept, flipped, strict=True)) and any(kept) and any(flipped)


def test_more_strength_changes_more() -> None:
    # smooth pictures: of noise, any shift is as far as any other
    ramp = torch.linspace(0, 255, 32)
    pictures = (ramp[:, None] / 2 + ramp[None] / 2).to(torch.uint8).expand(32, 3, 32, 32)
    flips = augment_pictures(pictures, 32, generator(1), 0.0)
    distances = [(augment_pictures(pictures, 32, generator(1), s) - flips).abs().mean() for s in (0.3, 1.0, 2.0)]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert augment_pictures(pictures, 32, generator(1), 2.0).min() >= 0.0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_tempo_and_silence_stay_within_their_spread(strength: float) -> None:
    wave = torch.sin(torch.arange(16000) / 20)
    changed = [augment_waveform(wave, generator(seed), strength) for seed in range(80)]
    starts = [int((x.abs() > 0.5 * x.abs().max()).nonzero()[0]) for x in changed]  # noise is below that
    lengths = [(x.shape[0] - start) / 16000 for x, start in zip(changed, starts, strict=True)]
    assert max(starts) < LONGEST_SILENCE * strength + 60 and max(starts) - min(starts) > LONGEST_SILENCE * strength / 2
    assert min(lengths) >= 1 / (1 + TEMPO * strength) - 5e-3 and max(lengths) <= 1 / (1 - TEMPO * strength) + 1e-3
    assert max(lengths) - min(lengths) > TEMPO * strength


def test_a_faster_sound_is_higher() -> None:
    wave = torch.sin(torch.arange(16000) * (2 * torch.pi * 440 / 16000))
    fast = stretch(wave, 1.25)
    assert fast.shape == (12800,)
    assert torch.fft.rfft(fast).abs().argmax() * 16000 / 12800 == 550


def test_a_sound_without_augmentation_is_itself() -> None:
    wave = torch.randn(1000, generator=generator())
    assert torch.equal(augment_waveform(wave, generator(), 0.0), wave)


def test_another_recording_changes_the_balance_of_frequencies_but_not_the_time() -> None:
    wave = F.pad(torch.randn(8000, generator=generator()), (8000, 0))

    def tilt(x: torch.Tensor) -> float:
        power = torch.fft.rfft(x).abs().square()
        return (power[len(power) // 2 :].sum() / power[: len(power) // 2].sum()).log().item()

    recordings = [change_recording(wave, generator(seed), 1.0) for seed in range(30)]
    assert all(x.shape == wave.shape for x in recordings)
    tilts = [tilt(x) for x in recordings]
    assert min(tilts) < -0.5 and max(tilts) > 0.3
    noise = [(x[:8000].std() / x.std()).item() for x in recordings]  # before the sound there is nothing else
    assert 1e-3 < min(noise) < 5e-3 and 0.1 < max(noise) < 0.14


def test_some_rooms_have_an_echo() -> None:
    click = F.pad(torch.ones(1), (0, 7999))
    tails = [change_recording(click, generator(seed), 1.0)[100:2000].std().item() for seed in range(40)]
    quiet = [change_recording(click, generator(seed), 1e-3)[100:2000].std().item() for seed in range(40)]
    assert max(tails) > 3e-3 > 1e-4 > max(quiet)
