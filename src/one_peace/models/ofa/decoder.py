"""The decoder: texts or image codes, each with positions and norms of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from one_peace.modalities.tokenization import PAD_ID
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.encoder import Encoded, LayerBiases
from one_peace.models.ofa.layers import DecoderLayer, KeysValues
from one_peace.models.ofa.positions import PositionBias, Positions, RelativeTables, of_layer
from one_peace.nn.grid_positions import code_positions, image_buckets
from one_peace.nn.relative_position import MAX_POSITIONS, RelativeBias, offset_buckets


class OfaDecoder(nn.Module):
    """A causal transformer that reads encoder states; a row of a batch is a text or a sequence of image codes."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.text_norm = nn.LayerNorm(width) if config.text_norm else nn.Identity()
        self.code_norm = nn.LayerNorm(width) if config.code_norm else None
        self.positions = Positions(config)
        self.self_position_bias = PositionBias(width, heads, config.position_scale)
        self.cross_position_bias = PositionBias(width, heads, config.position_scale)
        self.relative = RelativeTables(config, config.decoder_layers)
        self.dropout = nn.Dropout(config.dropout)
        rates = torch.linspace(0, config.drop_path, config.decoder_layers, device="cpu").tolist()
        self.layers = nn.ModuleList(DecoderLayer(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)

    def forward(self, embedded: Tensor, tokens: Tensor, encoded: Encoded, codes: Tensor | None = None) -> Tensor:
        """Whole sequences at once: features (batch, length, width), each position seeing those up to itself.

        embedded: token features (batch, length, width) of `tokens` (batch, length) int64, the start token first.
        codes: (batch,) bool, True for rows of image codes; None where there are none.
        """
        length = tokens.shape[1]
        kinds = self.kinds(codes)
        absolute = _by_row([self.self_bias(length, kind) for kind in kinds], codes)
        input_bias = _by_row([self.cross_bias(length, kind, encoded) for kind in kinds], codes)
        buckets = {kind: self.buckets(length, kind).to(tokens.device) for kind in kinds}

        def relative(layer: int) -> Tensor:
            return _by_row([of_layer(self.tables(kind), layer, buckets[kind]) for kind in kinds], codes)

        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = future[None, None]
        padding = tokens == PAD_ID
        if padding.device.type != "cpu" or padding.any():
            hidden = hidden | padding[:, None, None, :]
        layer_biases = LayerBiases(absolute.masked_fill(hidden, -math.inf), [relative])
        x = self.dropout(self.embed(embedded, kinds, codes))
        for index, (layer, inputs) in enumerate(zip(self.layers, self.inputs(encoded), strict=True)):
            x = layer(x, layer_biases(index), inputs, input_bias)
        return self.norm(x)

    def inputs(self, encoded: Encoded) -> Iterator[KeysValues]:
        """What the cross-attention of each layer reads, once per input."""
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer.cross.keys_values(encoded.features)

    def kinds(self, codes: Tensor | None) -> tuple[bool, ...]:
        """Which kinds of rows are in a batch, False for texts. Asking an accelerator would stall it: there, both."""
        if codes is None:
            return (False,)
        if codes.device.type != "cpu":
            return (False, True)
        return tuple(kind for kind in (False, True) if (codes == kind).any())

    def embed(self, embedded: Tensor, kinds: Sequence[bool], codes: Tensor | None, start: int = 0) -> Tensor:
        """Token features (rows, length, width) normalised as their row's kind wants, the first being token `start`."""
        rows = []
        for kind in kinds:
            x = embedded
            if self.config.decoder_entangled:
                x = x + self.position_rows(start + x.shape[1], kind)[:, start:]
            rows.append(self.code_norm(x) if kind and self.code_norm is not None else self.text_norm(x))
        return _by_row(rows, codes)

    def longest(self, kind: bool) -> int:
        """Tokens of a sequence: codes with their start token, or as many of a text as there are positions for."""
        if kind:
            return self.config.code_grid**2 + 1
        return min(self.config.text_positions, MAX_POSITIONS)

    def position_rows(self, length: int, kind: bool) -> Tensor:
        """Position features of tokens 0.., (1, length, width), not normalised."""
        if not kind:
            return self.positions.text_rows(length)
        ids = code_positions(self.config.code_grid, self.config.image_grid, length)
        return self.positions.image(ids.to(self.norm.weight.device))[None]

    def self_bias(self, length: int, kind: bool) -> Tensor:
        """Bias of absolute positions, (1, heads, length, length)."""
        rows = self._normalised_rows(length, kind)
        return self.self_position_bias(rows, rows)

    def cross_bias(self, length: int, kind: bool, encoded: Encoded) -> Tensor:
        """Bias towards the input, -inf on its padding: (1 or batch, heads, length, tokens of the input)."""
        bias = self.cross_position_bias(self._normalised_rows(length, kind), encoded.positions)
        return bias if encoded.padding is None else bias.masked_fill(encoded.padding[:, None, None, :], -math.inf)

    def _normalised_rows(self, length: int, kind: bool) -> Tensor:
        norm = self.positions.image_norm if kind else self.positions.text_norm
        return norm(self.position_rows(length, kind))

    def buckets(self, length: int, kind: bool) -> Tensor:
        """Rows of the relative tables, (length, length) int64 on the CPU."""
        if not kind:
            return offset_buckets(self.config.text_buckets, length)
        ids = code_positions(self.config.code_grid, self.config.image_grid, length)
        return image_buckets(ids, ids, self.config.image_grid)

    def tables(self, kind: bool) -> RelativeBias:
        """The relative tables of a kind of rows."""
        return self.relative.image if kind else self.relative.text


def _by_row(kinds: Sequence[Tensor], codes: Tensor | None) -> Tensor:
    """One tensor from that of texts and that of codes, each row's its own; as it is where there is but one kind."""
    if len(kinds) == 1:
        return kinds[0]
    assert codes is not None
    text, code = kinds
    return torch.where(codes.view(-1, *[1] * (text.dim() - 1)), code, text)
