"""Configuration of an OFA model, and its plain-dict form in `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from one_peace.checkpoints.ofa.config import FAMILY
from one_peace.configuration import build_dataclass, within
from one_peace.media.pictures import HALVES
from one_peace.models.blocks import check_heads

Prompt = Literal["none", "src", "prev_output"]
SIZES = (
    *("width", "heads", "ffn_width", "encoder_layers", "decoder_layers"),
    *("trunk", "image_size", "box_size", "text_positions", "image_grid", "text_buckets"),
)


@dataclass(frozen=True)
class OfaConfig:
    """Shape of an OFA model.

    trunk: bottleneck blocks of each stage of the ResNet. vocabulary: rows of the token table, of which the last
    `codes + bins` are image codes and box coordinates, and the one before them is `<mask>`.
    image_size: pixels of the square that pictures are stretched to; `image_mean` and `image_std` normalise it.
    box_size: pixels that the largest bin stands for. code_grid: side of the grid of codes that the decoder writes.
    text_positions: rows of the table of text positions. image_grid: side of the grid of image positions.
    text_buckets: half the rows of a relative table. interpolate_positions: side of a grid of image positions that is
    resized for pictures with more cells, None to use the rows as they are.
    position_scale: attention and position logits are divided by the root of this times the width of a head.

    The switches differ between checkpoints and are read from the tensors that a file holds: norms inside the layers
    (`attention_norm`, `ffn_norm`), a learned factor per head and per feature of a branch (`head_scale`,
    `residual_scale`), norms of the embeddings, token types, width of adapters behind the feed-forwards. `entangled`
    models add absolute positions to the embeddings, too.

    prompt: what the decoder gets before it writes: the start token alone, the whole source, or the source without its
    end, as the fine-tuned models for questions and statements want it.
    """

    name: str
    width: int
    heads: int
    ffn_width: int
    encoder_layers: int
    decoder_layers: int
    trunk: tuple[int, int, int]
    vocabulary: int = 59457
    codes: int = 8192
    bins: int = 1000
    image_size: int = 384
    image_mean: tuple[float, float, float] = HALVES[0]
    image_std: tuple[float, float, float] = HALVES[1]
    box_size: int = 512
    code_grid: int = 16
    text_positions: int = 1026
    image_grid: int = 42
    text_buckets: int = 256
    interpolate_positions: int | None = None
    position_scale: float = 2.0
    attention_norm: bool = True
    ffn_norm: bool = True
    head_scale: bool = True
    residual_scale: bool = False
    text_norm: bool = True
    image_norm: bool = True
    code_norm: bool = True
    types: bool = True
    adapter_width: int | None = None
    encoder_entangled: bool = False
    decoder_entangled: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    prompt: Prompt = "none"

    def __post_init__(self) -> None:
        for name in ("trunk", "image_mean", "image_std"):  # lists when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.trunk) != 3:
            raise ValueError(f"trunk needs three numbers of blocks, got {self.trunk}")
        if self.prompt not in get_args(Prompt):
            raise ValueError(f"prompt must be one of {', '.join(get_args(Prompt))}, got {self.prompt!r}")
        within(self, "config", **dict.fromkeys(SIZES, "[1, inf)"), dropout="[0, 1)", drop_path="[0, 1)")
        check_heads(self, "config")
        if min(self.codes, self.bins) < 0 or self.words < 4:
            raise ValueError(f"vocabulary {self.vocabulary} is too small for {self.codes} codes and {self.bins} bins")
        within(self, "config", code_grid=f"[1, {self.image_grid}]")

    @property
    def words(self) -> int:
        """Rows of the token table before `<mask>`: four specials, then words."""
        return self.vocabulary - self.codes - self.bins - 1

    @property
    def longest_text(self) -> int:
        """Tokens of the longest text that is read, start and end included: two rows of the table are beyond it."""
        return self.text_positions - 2

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values, readable by `from_dict`."""
        values = dataclasses.asdict(self)
        return {"family": FAMILY} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OfaConfig:
        """Inverse of `to_dict`. `ValueError` names unknown keys and the nearest known one."""

        config: OfaConfig = build_dataclass(cls, {k: v for k, v in values.items() if k != "family"}, "config")
        return config
