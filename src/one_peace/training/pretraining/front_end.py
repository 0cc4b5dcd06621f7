"""Teaches the audio front end to hear before it has to understand.

Not in the paper, whose stage 2 has far more sound. On a few thousand clips, contrast alone leaves the waveform
convolutions near their random start, and what they say of a clip changes when it is shifted or stretched. Here they
first predict the clip's log-mel spectrogram, which takes a minute and no captions, and then stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from one_peace.media.sounds import SAMPLE_RATE
from one_peace.modalities import get_modality
from one_peace.modalities.audio import AudioAdapter, AudioConfig
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.nn.linear import Linear
from one_peace.nn.wave_frames import WaveFrames
from one_peace.objectives.spectrogram import BANDS, HOP, spectrogram_loss
from one_peace.training.initial_values import fill, fresh_values
from one_peace.training.pretraining.short_fit import fit, short_optimizer

BATCH, RATE, WARMUP = 8, 3e-3, 20
PREFIX = "encoder.adapters.audio."


def kept_front_end(config: OnePeaceConfig, values: Iterable[tuple[str, Tensor]]) -> Callable[[Example], Example]:
    """From examples of `waveform` to those of `frames`, by the waveform convolutions of a pretraining model, from its
    values by name."""
    settings = config.modalities["audio"]
    assert isinstance(settings, AudioConfig)
    frames = WaveFrames(settings.convs).requires_grad_(False)
    own = PREFIX + "frames."
    frames.load_state_dict({name.removeprefix(own): value for name, value in values if name.startswith(own)})
    return lambda example: {"frames": frames(example["waveform"][None])[0]}


def fit_front_end(
    config: OnePeaceConfig,
    processors: Mapping[str, Processor],
    batches: Callable[[int, int, int], list[tuple[Example, Example]]],
    steps: int,
    seed: int,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Tensor]:
    """Trains the convolutions of a fresh audio adapter, and their norm, to predict the spectrogram by one linear layer.

    Returns their values, by their names in a pretraining model.

    Raises:
        ValueError: the model has no audio adapter, or its frames are no whole number of spectrogram columns.
    """
    if "audio" not in config.modalities:
        raise ValueError("front_end_steps needs a model with an audio adapter")
    adapter = get_modality("audio").adapter(config.modalities["audio"], config.width, config.heads, config.bias_tables)
    assert isinstance(adapter, AudioAdapter)
    names = [PREFIX + name for name, _ in adapter.named_parameters()]
    fill(adapter, ((name.removeprefix(PREFIX), value) for name, value in fresh_values(config, seed, names)))
    stride = math.prod(stride for _, stride in adapter.frames.shapes)
    if stride % HOP:
        raise ValueError(f"front_end_steps: frames of {stride} samples are no multiple of {HOP}")
    generator = torch.Generator().manual_seed(seed)
    head = Linear(adapter.frames_proj.in_features, stride // HOP * BANDS)
    with torch.no_grad():
        head.weight.normal_(std=head.in_features**-0.5, generator=generator)
        head.bias.zero_()
    trained = [*adapter.frames.parameters(), *adapter.frames_norm.parameters(), *head.parameters()]

    def loss_of(step: int) -> Tensor:
        clips = [partner for _, partner in batches(BATCH, seed, step)]
        waveform = processors["audio"].collate(clips)["waveform"]
        loss = spectrogram_loss(head(adapter.frames_norm(adapter.frames(waveform))), waveform, SAMPLE_RATE, stride)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            report({"front_end_step": step + 1, "unexplained": round(loss.item(), 3)})
        return loss

    fit(short_optimizer(trained), loss_of, steps, RATE, WARMUP)
    fitted = {
        name: p.detach() for name, p in adapter.named_parameters() if name.startswith(("frames.", "frames_norm."))
    }
    return {PREFIX + name: value for name, value in fitted.items()}
