"""The family of sizes: one shape rule, two numbers per model."""

from __future__ import annotations

import dataclasses

from one_peace.modalities import get_modality
from one_peace.models.one_peace.config import DecoderConfig, OnePeaceConfig

SIZES: dict[str, tuple[int, int]] = {  # name -> (width, layers)
    "nano": (192, 6),
    "tiny": (256, 8),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "one-peace": (1536, 40),
}


def list_presets() -> tuple[str, ...]:
    """Names of the presets, smallest first."""
    return tuple(SIZES)


def preset(
    name: str, modalities: tuple[str, ...] = ("text", "image", "audio"), decoder: bool = False
) -> OnePeaceConfig:
    """The config of a preset: heads of 64, feed-forward four times the width, a decoder of half the width.

    `one-peace` is the published model of 3.88 billion parameters (paper, table 1). Layer scale follows depth:
    1 up to 12 layers, 1e-5 up to 24, the published 1e-6 beyond.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; presets: {', '.join(SIZES)}")
    width, layers = SIZES[name]
    config = OnePeaceConfig(
        name=name,
        width=width,
        layers=layers,
        heads=width // 64,
        ffn_width=4 * width,
        modalities={m: get_modality(m).preset(width) for m in modalities},
        layer_scale=1.0 if layers <= 12 else 1e-5 if layers <= 24 else 1e-6,
    )
    return dataclasses.replace(config, decoder=decoder_shape(width)) if decoder else config


def decoder_shape(width: int) -> DecoderConfig:
    """The pretraining decoder of an encoder of this width: half as wide, two layers (paper, section 4.1).

    Its feed-forward is 8/3 of its width, to the nearest multiple of 8, which accelerators multiply fastest.
    """
    half = width // 2
    return DecoderConfig(half, layers=2, heads=max(1, half // 64), ffn_width=8 * round(half / 3))
