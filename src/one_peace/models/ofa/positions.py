"""Tables of absolute and relative positions, and the bias that they give attention."""

from __future__ import annotations

from torch import Tensor, nn

from one_peace.models.ofa.config import OfaConfig
from one_peace.nn.linear import Linear
from one_peace.nn.relative_position import RelativeBias, grid_rows


class Positions(nn.Module):
    """Tables of absolute positions of texts and pictures, with the norm in front of the position bias of each."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__()
        self.text = nn.Embedding(config.text_positions, config.width)
        self.image = nn.Embedding(config.image_grid**2 + 1, config.width)
        self.text_norm = nn.LayerNorm(config.width)
        self.image_norm = nn.LayerNorm(config.width)

    def text_rows(self, length: int) -> Tensor:
        """Positions 0.. of a text -> (1, length, width)."""
        if length > self.text.num_embeddings:
            raise ValueError(f"{length} tokens: this model has {self.text.num_embeddings} text positions")
        return self.text.weight[None, :length]


class PositionBias(nn.Module):
    """Attention logits that depend on absolute positions alone (the untied bias of the paper, section 3.1)."""

    def __init__(self, width: int, heads: int, scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.factor = (scale * width / heads) ** -0.5
        self.query = Linear(width, width)
        self.key = Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Position features (1 or batch, q, width) and (1 or batch, k, width) -> (1 or batch, heads, q, k)."""
        q = (self.query(queries) * self.factor).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k = self.key(keys).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return q @ k.transpose(2, 3)


class RelativeTables(nn.Module):
    """Relative bias of texts and of pictures, a table per layer each."""

    def __init__(self, config: OfaConfig, layers: int) -> None:
        super().__init__()
        self.text = RelativeBias(2 * config.text_buckets - 1, config.heads, layers)
        self.image = RelativeBias(grid_rows(config.image_grid), config.heads, layers)


def of_layer(tables: RelativeBias, layer: int, buckets: Tensor, kept: Tensor | None = None) -> Tensor:
    """The bias of one layer alone, as all of them at once would be large: (1 or batch, heads, tokens, tokens)."""
    return tables(buckets, kept, [tables.tables[layer]])[0]
