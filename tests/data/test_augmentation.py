"""Strength scales augmentation; without any, pictures are only flipped and sounds are left alone."""

from __future__ import annotations

import pytest
import torch

from one_peace.data.augmentation import augment_pictures, augment_waveform


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
def test_tempo_stays_within_its_spread(strength: float) -> None:
    wave = torch.sin(torch.arange(16000) / 20)
    lengths = [augment_waveform(wave, generator(seed), strength).shape[0] / 16000 for seed in range(50)]
    assert min(lengths) >= 1 / (1 + 0.12 * strength) - 1e-3 and max(lengths) <= 1 / (1 - 0.12 * strength) + 1e-3
    assert max(lengths) - min(lengths) > 0.12 * strength


def test_a_sound_without_augmentation_is_itself() -> None:
    wave = torch.randn(1000, generator=generator())
    assert torch.equal(augment_waveform(wave, generator(), 0.0), wave)
