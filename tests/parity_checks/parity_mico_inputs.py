"""Checks of MiCo's processors: pictures, videos and sounds as the shared tower takes them. Run through `parity.py`.

Every size is read from the tensors and the manifest. Transparent pictures have their alpha channel dropped here before
ours sees them: the published code drops it, ours shows what is transparent on white (docs/differences.md).
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from one_peace.media.filter_bank import SILENCE, log_mel, mel_filters
from one_peace.media.frame_choice import frame_runs, repeated_frames
from one_peace.media.resampling import resample
from one_peace.media.sounds import SAMPLE_RATE
from one_peace.modalities import get_modality
from one_peace.modalities.frames import FrameConfig, FrameProcessor, prepare_frame
from one_peace.modalities.slices import SliceConfig, SliceProcessor

if TYPE_CHECKING:
    from parity import Check, Comparison
    from parity_files import Fixture

AST = {"mean": -4.2677393, "deviation": 4.5689974, "scale": "ast"}


def check_image(fixture: Fixture, comparison: Comparison) -> None:
    """`image.CASE.uint8` -> `image.CASE.STATISTICS.TRANSFORM` (1, 3, size, size), and the data sets' own mapper."""
    for name, expected in fixture.tensors.items():
        _, case, *form = name.split(".")
        if form == ["uint8"]:
            continue
        picture = Image.fromarray(fixture[f"image.{case}.uint8"].numpy()).convert("RGB")
        if form[0].startswith("dataset_mapper_"):  # calculates in float64, unlike the processor of pictures
            config = FrameConfig(expected.shape[-1], 1, statistics=form[0].removeprefix("dataset_mapper_"))  # type: ignore[arg-type]
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).double() / 255
            ours = prepare_frame(pixels, config)[None].float()
        else:
            ours = frames("image", picture, expected, *form)
        comparison.feature(name, ours, expected)


def check_video(fixture: Fixture, comparison: Comparison) -> None:
    """Chosen frames `frames_uint8` -> `STATISTICS.TRANSFORM` (n, 3, size, size)."""
    video = fixture["frames_uint8"].numpy()
    for name, expected in fixture.tensors.items():
        if name != "frames_uint8":
            comparison.feature(name, frames("video", video, expected, *name.split(".")), expected)


def frames(modality: str, source: Any, expected: torch.Tensor, statistics: str, transform: str) -> torch.Tensor:
    count, _, _, size = expected.shape
    config = FrameConfig(size, count, crop=transform == "crop_flip", statistics=statistics)  # type: ignore[arg-type]
    return FrameProcessor(get_modality(modality), config)(source)["frames"]


# A rounding of float32 of the mel axis, which ends at 2840 mel, over the width of a band; some more for what follows.
PER_BAND = 1.5e-7
# The logarithm of a weak band shows the rounding of the Fourier transform, which every processor does its own way: in
# float32 it is up to 1e-6 times the root of the frame's loudest energy over the band's. Two ways differ by twice that.
PER_LOUDEST = 4e-6


def check_audio(fixture: Fixture, comparison: Comparison) -> None:
    """`CASE.waveform_int16` -> `CASE.spectrogram`, the steps on the way, and the data sets' own mapper."""
    for name, expected in fixture.tensors.items():
        case, _, form = name.partition(".")
        if name.startswith("mel_filterbank"):
            bins, half = expected.shape
            comparison.feature(name, mel_filters(bins, 2 * half), expected, max(1e-5, PER_BAND * (bins + 1)))
            continue
        if form == "waveform_int16":
            continue
        meta = fixture.meta[case]
        rate, waveform = meta["sample_rate"], fixture[f"{case}.waveform_int16"]
        if form == "waveform_16k":
            channels = [resample(channel.float() / 2**15, rate, SAMPLE_RATE) for channel in waveform]
            comparison.feature(name, torch.stack(channels), expected)
        elif form == "fbank_raw":
            samples = resample(waveform[0].float() / 2**15, rate, SAMPLE_RATE) * 2.0**15
            ours = log_mel(samples, expected.shape[1])
            compare_bands(comparison, name, ours, expected, 1e-5 * expected.abs().max().item())
        else:
            count, length, size = expected.shape
            if form == "spectrogram":
                config = SliceConfig(meta["melbins"], length, count, size)
            else:
                config = SliceConfig(size, length, count, **(AST if form == "dataset_mapper_ast" else {}))  # type: ignore[arg-type]
            ours = SliceProcessor(config)((waveform, rate))["slices"]
            compare_bands(comparison, name, ours, expected, 1e-4, config.mean, 2 * config.deviation)
            comparison.feature(f"{name}, on average", (ours - expected).abs().mean(), torch.zeros(()), 1e-6)


def compare_bands(
    comparison: Comparison,
    name: str,
    ours: torch.Tensor,
    expected: torch.Tensor,
    least: float,
    mean: float = 0.0,
    spread: float = 1.0,
) -> None:
    """Log energies (..., bands), less a mean and over a spread: `least` apart at most, weak bands by their rounding.

    Silence, also that of a band between two frequencies, is silence exactly.
    """
    below = (expected.amax(dim=-1, keepdim=True) - expected) * spread
    heard = torch.minimum(ours, expected) * spread + mean > math.log(SILENCE) + 1e-4
    room = least + torch.where(heard, PER_LOUDEST * (below / 2).exp() / spread, 0.0)
    comparison.feature(name, ours, expected, room.max().item())
    beyond = ((ours - expected).abs() - room).clamp_min(0)
    comparison.feature(f"{name}, beyond rounding", beyond, torch.zeros_like(beyond), 0.0)


def check_sampling(fixture: Fixture, comparison: Comparison) -> None:
    """Which frames of a video are taken: the middle ones of equal runs, in training random ones."""
    for key, expected in fixture.meta["split"].items():
        count, wanted = map(int, key.split(","))
        sizes = [len(run) for run in frame_runs(count, min(count, wanted))] + [1] * (wanted - count)
        comparison.exact(f"sizes {key}", sizes, expected["sizes"])
        comparison.exact(f"chosen {key}", repeated_frames(count, wanted), expected["test_indices"])
    for key, drawn in fixture.meta.items():
        words = key.split("_")  # train_choice_30_frames_4_samples_python_seed
        if words[:2] == ["train", "choice"]:
            draw = random.Random(drawn["seed"])
            runs = frame_runs(int(words[2]), int(words[4]))
            comparison.exact(key, [draw.choice(run) for run in runs], drawn["indices"])


CHECKS: dict[str, Check] = {
    "06_image": check_image,
    "06_video": check_video,
    "06_video_sampling": check_sampling,
    "06_audio": check_audio,
}
