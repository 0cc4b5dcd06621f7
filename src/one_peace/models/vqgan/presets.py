"""Shapes of VQGANs by name."""

from __future__ import annotations

from collections.abc import Mapping

from one_peace.models.vqgan.config import VqganConfig

PRESETS: Mapping[str, VqganConfig] = {
    "vqgan": VqganConfig(),
    "vqgan-nano": VqganConfig(
        codes=512, code_width=64, width=16, multipliers=(1, 2, 4, 4), blocks=1, attention=(), groups=8
    ),
}
"""The one that OFA's published codes are of; and a small one whose codes `ofa-nano` knows, to be trained on a CPU core.
A code of either is a square of 8 pixels."""
