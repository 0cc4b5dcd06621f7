"""Strength scales augmentation; without any, pictures are only flipped and sounds are left alone."""

from __future__ import annotations

import pytest
import torch

from one_peace.data.augmentation import LONGEST_SILENCE, augment_pictures, augment_waveform


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
    changed = [augment_waveform(wave, generator(seed), strength) for seed in range(50)]
    starts = [int((x.abs() > 0.4).nonzero()[0]) for x in changed]  # noise is below that, the sound above
    lengths = [(x.shape[0] - start) / 16000 for x, start in zip(changed, starts, strict=True)]
    assert max(starts) < LONGEST_SILENCE * strength + 40 and max(starts) - min(starts) > LONGEST_SILENCE * strength / 2
    assert min(lengths) >= 1 / (1 + 0.12 * strength) - 3e-3 and max(lengths) <= 1 / (1 - 0.12 * strength) + 1e-3
    assert max(lengths) - min(lengths) > 0.12 * strength


def test_a_sound_without_augmentation_is_itself() -> None:
    wave = torch.randn(1000, generator=generator())
    assert torch.equal(augment_waveform(wave, generator(), 0.0), wave)


def test_a_microphone_tilts_the_spectrum_both_ways() -> None:
    wave = torch.randn(16000, generator=generator())

    def tilt(x: torch.Tensor) -> float:
        power = torch.fft.rfft(x).abs().square()
        return (power[len(power) // 2 :].sum() / power[: len(power) // 2].sum()).log().item()

    tilts = [tilt(augment_waveform(wave, generator(seed))) for seed in range(30)]
    assert min(tilts) < -0.5 and max(tilts) > 0.3
    assert len(augment_waveform(wave, generator())) != 16000
