"""What MiCo's tower sees of pictures, videos and sounds; the numbers are held to the reference by parity.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.errors import InputError
from one_peace.media.filter_bank import SILENCE, log_mel, mel_filters
from one_peace.media.frame_choice import frame_runs, repeated_frames
from one_peace.media.resampling import resample
from one_peace.media.sounds import decode_first_channel
from one_peace.modalities import get_modality
from one_peace.modalities.frames import FrameConfig, FrameProcessor
from one_peace.modalities.slices import SliceConfig, SliceProcessor
from video_files import animation, grey_frames

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_a_tone_is_loudest_in_its_own_band() -> None:
    filters = mel_filters(64)
    for hertz in (200, 1000, 5000):
        bank = log_mel(torch.from_numpy(tone(hertz)) * 2**15, 64)
        assert bank.shape == (98, 64)
        loudest = int(bank.mean(dim=0).argmax())
        assert filters[loudest, round(hertz / RATE * 512)] > 0
    assert torch.all(log_mel(torch.zeros(400), 64) == torch.tensor(SILENCE).log())
    assert log_mel(torch.zeros(559), 8).shape == (1, 8) and log_mel(torch.zeros(560), 8).shape == (2, 8)
    with pytest.raises(ValueError, match="400 samples"):
        log_mel(torch.zeros(399), 64)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 44_101])
def test_resampling_keeps_a_tone(rate: int) -> None:
    ours = resample(torch.from_numpy(tone(440, rate=rate)), rate, RATE)
    assert len(ours) == RATE
    assert (ours - torch.from_numpy(tone(440)))[200:-200].abs().max() < 2e-3


def test_the_first_channel_counts_at_its_own_rate() -> None:
    stereo = np.stack([tone(440, rate=22_050), np.zeros(22_050, np.float32)])
    waveform, rate = decode_first_channel((stereo, 22_050))
    assert rate == 22_050 and np.array_equal(waveform, stereo[0])


def test_sounds_are_filled_up_to_whole_slices_and_always_by_a_frame() -> None:
    def slices(samples: int, count: int = 2, seed: int | None = None) -> torch.Tensor:
        processor = SliceProcessor(SliceConfig(bins=16, frames=10, count=count, size=12))
        loaded = processor.load(torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1)
        generator = torch.Generator().manual_seed(seed or 0)
        assert processor.length(processor.vary(loaded, generator, 0.0)) == count
        return loaded

    frames = {samples: 1 + (samples - 400) // 160 for samples in (400, 1840, 3440, 5040)}
    assert list(frames.values()) == [1, 10, 20, 30]
    assert [len(slices(samples)) for samples in frames] == [2, 2, 3, 4]
    assert not slices(400)[0, 1:].any() and slices(3440)[:2].all() and not slices(3440)[2].any()
    assert slices(400).shape == (2, 10, 12)
    with pytest.raises(InputError, match="too short: 399 samples"):
        slices(399)


def test_training_draws_other_slices_and_frames() -> None:
    sounds = SliceProcessor(SliceConfig(bins=16, frames=10, count=2))
    loaded = sounds.load(torch.randn(20_000, generator=torch.Generator().manual_seed(0)))
    still = sounds.vary(loaded, torch.Generator().manual_seed(0), 0.0)["slices"]
    drawn = [sounds.vary(loaded, torch.Generator().manual_seed(n), 1.0)["slices"] for n in range(3)]
    assert torch.equal(still, sounds.vary(loaded, torch.Generator().manual_seed(1), 0.0)["slices"])
    assert any(not torch.equal(still, other) for other in drawn)
    videos = FrameProcessor(get_modality("video"), FrameConfig(16, 2))
    stored = videos.load(grey_frames(30))
    greys = {
        tuple(videos.vary(stored, torch.Generator().manual_seed(n), 1.0)["frames"].mean((1, 2, 3)).tolist())
        for n in range(4)
    }
    assert len(stored) == 6 and len(greys) > 1


def test_short_videos_repeat_their_last_frame_and_time_counts_where_asked() -> None:
    assert repeated_frames(3, 5) == [0, 1, 2, 2, 2] and [len(run) for run in frame_runs(11, 4)] == [3, 3, 3, 2]
    uneven = animation(grey_frames(4), "WEBP", [100, 100, 100, 3700])

    def greys(**config: Any) -> list[int]:
        frames = FrameProcessor(get_modality("video"), FrameConfig(8, 4, statistics="imagenet", **config))(uneven)[
            "frames"
        ]
        return [round(value / 8) for value in (255 * (frames[:, 0, 0, 0] * 0.229 + 0.485)).tolist()]

    assert greys() == [0, 1, 2, 3] and greys(by_time=True) == [3, 3, 3, 3]


@pytest.mark.parametrize("count", [1, 2, 5, 8, 10, 30])
def test_training_sees_all_of_a_short_video(count: int) -> None:
    """Of what is kept of it to vary, too: without variation it is what is encoded."""
    config = FrameConfig(16, 8)
    videos = FrameProcessor(get_modality("video"), config)
    source = grey_frames(count, 16, 16)
    encoded, loaded = videos(source)["frames"], videos.load(source)
    assert len(encoded) == 8 and len(loaded) == min(24, max(2, count))
    if count <= 8:
        torch.testing.assert_close(videos.vary(loaded, torch.Generator(), 0.0)["frames"], encoded, atol=0.02, rtol=0)
    for seed in range(4):
        varied = videos.vary(loaded, torch.Generator().manual_seed(seed), 1.0)["frames"]
        assert len(varied) == 8 and len(varied.mean((1, 2, 3)).unique()) == min(count, 8)


def test_a_picture_is_one_frame_whose_middle_is_taken_where_asked() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    for crop, share in ((False, 1 / 3), (True, 1.0)):
        frames = FrameProcessor(get_modality("image"), FrameConfig(20, 3, crop=crop))(Image.fromarray(wide))["frames"]
        assert frames.shape == (1, 3, 20, 20)
        assert (frames > 0).float().mean().item() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("bad", [{"size": 0}, {"count": 0}, {"statistics": "mine"}])
def test_settings_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FrameConfig(**bad)
