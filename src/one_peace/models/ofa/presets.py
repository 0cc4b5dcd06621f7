"""The family of sizes: one shape rule, four numbers per model."""

from __future__ import annotations

from one_peace.models.ofa.config import OfaConfig

HEAD_WIDTH = 64
MOST_HEADS = 16
TRUNKS = {50: (3, 4, 6), 101: (3, 4, 23), 152: (3, 8, 36)}
"""Depth of the ResNet that a trunk is cut from -> blocks of its first three stages."""

SIZES: dict[str, tuple[int, int, int, int]] = {  # name -> (width, encoder layers, decoder layers, ResNet)
    "ofa-tiny": (256, 4, 4, 50),
    "ofa-medium": (512, 4, 4, 101),
    "ofa-base": (768, 6, 6, 101),
    "ofa-large": (1024, 12, 12, 152),
    "ofa-huge": (1280, 24, 12, 152),
}


NANO = "ofa-nano"


def nano(words: int) -> OfaConfig:
    """A model of seven million parameters with a vocabulary of so many words, for pictures of 96 pixels: small enough
    to be trained on two CPU cores. Not a published size."""
    codes, bins = 512, 200
    return OfaConfig(
        name=NANO,
        width=192,
        heads=3,
        ffn_width=4 * 192,
        encoder_layers=4,
        decoder_layers=4,
        trunk=(1, 1, 1),
        vocabulary=words + 1 + codes + bins,
        codes=codes,
        bins=bins,
        image_size=96,
        box_size=128,  # of pictures whose objects are named: two times 8 codes of 8 pixels
        code_grid=8,
        text_positions=258,
        text_buckets=64,
        image_grid=16,
    )


def list_presets() -> tuple[str, ...]:
    """Names of the presets, smallest first."""
    return tuple(SIZES)


def preset(name: str) -> OfaConfig:
    """The config of a published size (paper, table 1): heads of 64, at most 16 of them; feed-forward four widths."""
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; presets: {', '.join(SIZES)}")
    width, encoder_layers, decoder_layers, resnet = SIZES[name]
    return OfaConfig(
        name=name,
        width=width,
        heads=min(width // HEAD_WIDTH, MOST_HEADS),
        ffn_width=4 * width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        trunk=TRUNKS[resnet],
    )
