"""The family of sizes: one shape rule, two numbers per model."""

from __future__ import annotations

import dataclasses

from one_peace.checkpoints.mico.config import input_settings
from one_peace.modalities.base import SMALL_WIDTH
from one_peace.models.mico.config import MiCoConfig, TextConfig, TowerConfig

SIZES: dict[str, tuple[int, int]] = {  # name -> (width, layers) of the tower
    "mico-nano": (176, 6),
    "mico-tiny": (264, 8),
    "mico-small": (352, 12),
    "mico-base": (704, 12),
    "mico-large": (1056, 24),
    "mico-giant": (1408, 40),
}

PATCH = 14
HEAD = 88  # width of a head of the tower
FFN_RATIO = 4.3637  # hidden features of the tower's network, to its width
LARGEST, LARGEST_DROP_PATH = 40, 0.4  # layers, and the rate of the last one of so many


def list_presets() -> tuple[str, ...]:
    """Names of the presets, smallest first."""
    return tuple(SIZES)


def preset(name: str) -> MiCoConfig:
    """The config of a preset; `mico-giant` is the published ViT-g/14 model of 1.3 billion parameters.

    Of the published tower all take the width of heads, the patch and the shape of the feed-forward network; a text
    model is 6/11 as wide as the tower and has 3/10 of its layers. Models small enough to be trained on a laptop take
    frames of 112 pixels. Numbers of frames and the length of embeddings are those of the published default settings.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; presets: {', '.join(SIZES)}")
    width, layers = SIZES[name]
    text = width * 6 // 11
    size = 112 if width < SMALL_WIDTH else 224
    frames = {"vision": 8, "audio": 3, "depth": 8}
    tower = TowerConfig(
        width=width,
        layers=layers,
        heads=width // HEAD,
        ffn_width=int(width * FFN_RATIO),
        patch=PATCH,
        image_size=size,
        drop_path=LARGEST_DROP_PATH * layers / LARGEST,
    )
    return MiCoConfig.from_dict(
        {
            "name": name,
            "tower": dataclasses.asdict(tower),
            "text": dataclasses.asdict(TextConfig(text, max(2, 3 * layers // 10), max(1, round(text / 64)), 4 * text)),
            "contrast_width": min(512, text),
            "frames": frames,
            "modalities": input_settings(size, frames),
        }
    )
