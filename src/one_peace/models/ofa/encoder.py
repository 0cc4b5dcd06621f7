"""The encoder: cells of a picture and tokens of a text in one sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.modalities.tokenization import PAD_ID
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.layers import EncoderLayer
from one_peace.models.ofa.positions import PositionBias, Positions, RelativeTables, of_layer
from one_peace.models.ofa.trunk import CHANNELS, Trunk
from one_peace.nn.grid_positions import grid_positions, image_buckets
from one_peace.nn.linear import Linear
from one_peace.nn.relative_position import offset_buckets

TEXT_TYPE, IMAGE_TYPE = 0, 1

LayerBias = Callable[[int], Tensor]
"""The relative bias of a layer, (1 or batch, heads, n, n)."""


@dataclass(frozen=True)
class Encoded:
    """What the decoder reads.

    features: (batch, tokens, width), the picture first. padding: (batch, tokens) bool, True = padding, or None when
    there is none. positions: normalised position features (1 or batch, tokens, width).
    """

    features: Tensor
    padding: Tensor | None
    positions: Tensor

    def rows(self, index: Tensor) -> Encoded:
        """Some inputs of the batch: index (n,) int64."""
        positions = self.positions if self.positions.shape[0] == 1 else self.positions[index]
        return Encoded(self.features[index], None if self.padding is None else self.padding[index], positions)


def draw_patches(batch: int, cells: int, count: int, generator: torch.Generator) -> Tensor:
    """Random cells of each picture, without repetition and in random order -> (batch, min(count, cells)) int64."""
    return torch.rand(batch, cells, generator=generator).argsort(dim=1)[:, :count]


class OfaEncoder(nn.Module):
    """ResNet cells and text tokens through a transformer whose attention knows positions by bias alone."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.trunk = Trunk(config.trunk)
        self.image_projection = Linear(CHANNELS, width)
        self.types = nn.Embedding(2, width) if config.types else None
        self.text_norm = nn.LayerNorm(width) if config.text_norm else nn.Identity()
        self.image_norm = nn.LayerNorm(width) if config.image_norm else nn.Identity()
        self.positions = Positions(config)
        self.position_bias = PositionBias(width, config.heads, config.position_scale)
        self.relative = RelativeTables(config, config.encoder_layers)
        self.dropout = nn.Dropout(config.dropout)
        rates = torch.linspace(0, config.drop_path, config.encoder_layers, device="cpu").tolist()
        self.layers = nn.ModuleList(EncoderLayer(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        embedded: Tensor,
        tokens: Tensor,
        pixels: Tensor | None = None,
        pictured: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> Encoded:
        """A batch of texts, each with a picture or all without.

        embedded: token features (batch, length, width) of `tokens` (batch, length) int64, right-padded. pixels:
        (batch, 3, height, width) normalised. pictured: (batch,) bool, False where a row's picture is not there (its
        pixels are any). patches: (batch, k) int64, the cells to use, as `draw_patches` gives them; all by default.
        """
        text = self._text(embedded)
        text_positions = self.positions.text_norm(self.positions.text_rows(tokens.shape[1]))
        padding = tokens == PAD_ID
        if pixels is None:
            x, positions, ids = text, text_positions, None
        else:
            image, image_positions, ids = self._image(pixels, patches)
            x = torch.cat([image, text], dim=1)
            batch = image_positions.shape[0]
            positions = torch.cat([self.positions.image_norm(image_positions), text_positions.expand(batch, -1, -1)], 1)
            absent = padding.new_zeros(image.shape[:2])
            if pictured is not None:
                absent = absent | ~pictured[:, None]
            padding = torch.cat([absent, padding], dim=1)
        # Looking at the values would stall an accelerator; on a CPU it saves a bias per sample.
        hidden = None if padding.device.type == "cpu" and not padding.any() else padding
        if hidden is not None:
            x = x.masked_fill(hidden[:, :, None], 0.0)
        absolute = self.position_bias(positions, positions)
        if hidden is not None:
            absolute = absolute.masked_fill(hidden[:, None, None, :], -math.inf)
        biases = self._relative(absolute, tokens.shape[1], ids, patches)
        for index, layer in enumerate(self.layers):
            x = layer(x, biases(index))
        return Encoded(self.norm(x), hidden, positions)

    def _text(self, embedded: Tensor) -> Tensor:
        """Token features with their type (and place), normalised: (batch, length, width)."""
        if self.config.encoder_entangled:
            embedded = embedded + self.positions.text_rows(embedded.shape[1])
        if self.types is not None:
            embedded = embedded + self.types.weight[TEXT_TYPE]
        return self.dropout(self.text_norm(embedded))

    def _image(self, pixels: Tensor, patches: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Features (batch, cells, width) of cells, their positions (1 or batch, cells, width), and rows of all (n,)."""
        grid = self.trunk(pixels)
        height, width = grid.shape[2:]
        cells = grid.flatten(2).transpose(1, 2)
        ids = grid_positions(height, width, self.config.image_grid).to(cells.device)
        positions = self._image_positions(height, width, ids)
        if patches is not None:
            cells = cells.gather(1, patches[:, :, None].expand(-1, -1, cells.shape[2]))
            positions = positions[0][patches]
        x = self.image_projection(cells)
        if self.config.encoder_entangled:
            x = x + positions
        if self.types is not None:
            x = x + self.types.weight[IMAGE_TYPE]
        return self.dropout(self.image_norm(x)), positions, ids

    def _image_positions(self, height: int, width: int, ids: Tensor) -> Tensor:
        """Position features of all cells, (1, cells, width)."""
        trained = self.config.interpolate_positions
        if trained is None or height * width <= trained**2:
            return self.positions.image(ids)[None]
        known = self.positions.image(grid_positions(trained, trained, self.config.image_grid).to(ids.device))
        known = known.t().unflatten(1, (trained, trained))[None]
        return F.interpolate(known, (height, width), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)

    def _relative(self, absolute: Tensor, length: int, ids: Tensor | None, patches: Tensor | None) -> LayerBiases:
        buckets = offset_buckets(self.config.text_buckets, length).to(absolute.device)
        blocks: list[LayerBias] = [lambda layer: of_layer(self.relative.text, layer, buckets)]
        if ids is not None:
            cells = image_buckets(ids, ids, self.config.image_grid)
            blocks.insert(0, lambda layer: of_layer(self.relative.image, layer, cells, patches))
        return LayerBiases(absolute, blocks)


class LayerBiases:
    """The attention bias of each layer: that of absolute positions, plus relative ones in blocks on the diagonal."""

    def __init__(self, absolute: Tensor, blocks: Sequence[LayerBias]) -> None:
        self.absolute = absolute
        self.blocks = blocks  # of pictures, then of texts

    def __call__(self, layer: int) -> Tensor:
        """(1 or batch, heads, tokens, tokens)."""
        bias, start = self.absolute.clone(), 0
        for block in self.blocks:
            relative = block(layer)
            stop = start + relative.shape[2]
            bias[:, :, start:stop, start:stop] += relative
            start = stop
        return bias
