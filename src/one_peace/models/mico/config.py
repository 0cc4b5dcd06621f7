"""Configuration of a MiCo model, and its plain-dict form in `config.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from one_peace.configuration import build_dataclass, within
from one_peace.modalities.frames import FrameConfig
from one_peace.modalities.slices import SliceConfig
from one_peace.models.blocks import check_blocks

FAMILY = "mico"

Branch = Literal["vision", "audio", "depth"]
BRANCHES: tuple[Branch, ...] = ("vision", "audio", "depth")
"""What has its own head, projection and embeddings, in the order of joint memories. The tower is shared."""

BRANCH_OF: dict[str, Branch] = {
    "image": "vision",
    "video": "vision",
    "audio": "audio",
    "depth": "depth",
    "normals": "depth",
}
"""The branch of each modality; others that have a form as pictures take that of vision.

That of normal maps is ours: the published code has none.
"""


def branch_of(modality: str) -> Branch:
    """The branch that a modality takes."""
    return BRANCH_OF.get(modality, "vision")


SUBTITLE = "subtitle"

TowerKind = Literal["eva01", "eva02", "post_norm"]


@dataclass(frozen=True)
class TowerConfig:
    """The ViT that all knowledge modalities share.

    kind: `eva01`, norms first, learned positions, a GELU network (EVA-01-CLIP g/14, the official model); `eva02`, with
    rotary positions besides, a gated network and norms inside both branches (EVA-02-CLIP B and L); `post_norm`, as
    the first with the norm after each branch (EVA-02-CLIP bigE). rotary_grid: patches along a side when the angles
    of `eva02` were chosen. drop_path: of the last block; it grows linearly from 0 at the first.
    """

    width: int
    layers: int
    heads: int
    ffn_width: int
    patch: int
    image_size: int
    kind: TowerKind = "eva01"
    rotary_grid: int = 16
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("eva01", "eva02", "post_norm"):
            raise ValueError(f"kind of a tower must be 'eva01', 'eva02' or 'post_norm', got {self.kind!r}")
        check_blocks(self, "tower")
        within(self, "tower", patch="[1, inf)", rotary_grid="[1, inf)", drop_path="[0, 1)")
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ValueError(f"image_size must be a positive multiple of the patch {self.patch}, got {self.image_size}")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch


@dataclass(frozen=True)
class TextConfig:
    """The BERT that encodes texts, matches them against memories and writes captions. `dropout` acts in training."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    vocab_size: int = 30522
    max_positions: int = 512
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_blocks(self, "text")
        within(self, "text", vocab_size="[1, inf)", max_positions="[1, inf)", dropout="[0, 1)")


@dataclass(frozen=True)
class BeatsConfig:
    """BEATs (arXiv 2212.09058), an audio encoder that published captioners have beside the tower."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    patch_width: int
    position_kernel: int = 128
    position_groups: int = 16
    buckets: int = 320
    max_distance: int = 800
    kind: Literal["beats"] = "beats"

    def __post_init__(self) -> None:
        check_blocks(self, "audio_encoder")


@dataclass(frozen=True)
class AstConfig:
    """AST (arXiv 2104.01778), the other one: `mel_bins` x `frames` is the size of its spectrograms."""

    width: int
    layers: int
    heads: int
    ffn_width: int
    mel_bins: int
    frames: int
    kind: Literal["ast"] = "ast"

    def __post_init__(self) -> None:
        check_blocks(self, "audio_encoder")


@dataclass(frozen=True)
class MiCoConfig:
    """Shape of a model, and what its checkpoint says about its inputs.

    frames: of each branch, rows of its table of frame embeddings; 0 for a branch that has none ("frame_embedding_type":
    "none"). Other numbers of frames take the nearest rows. contrast_width: length of an embedding. modalities: what can
    be encoded besides text, and how an input becomes frames or slices. audio_encoder: encodes sounds in place of the
    tower. pool_frames: whether each frame gives its class token and the mean of its patches to the memory, instead
    of all tokens. max_*_tokens include the first and the last token.
    """

    name: str
    tower: TowerConfig
    text: TextConfig
    contrast_width: int
    frames: Mapping[str, int]
    modalities: Mapping[str, FrameConfig | SliceConfig]
    audio_encoder: BeatsConfig | AstConfig | None = None
    pool_frames: bool = False
    matching_weight: float = 0.1
    beams: int = 3
    max_caption_tokens: int = 40
    max_joint_caption_tokens: int = 70
    max_subtitle_tokens: int = 70
    family: Literal["mico"] = field(default="mico", kw_only=True)

    def __post_init__(self) -> None:
        unknown = [name for name in self.frames if name not in BRANCHES]
        if unknown or "vision" not in self.frames:
            raise ValueError(f"frames must be given for vision and may be for audio and depth, got {list(self.frames)}")
        within(self, "config", contrast_width="[1, inf)", frames="[0, inf)", beams="[1, inf)")
        lengths = ("max_caption_tokens", "max_joint_caption_tokens", "max_subtitle_tokens")
        within(self, "config", **dict.fromkeys(lengths, "[3, inf)"))
        for name in self.modalities:
            if branch_of(name) not in self.frames:
                raise ValueError(f"modality {name!r} needs the branch {branch_of(name)!r}, which frames does not have")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches that the model has, in the order of joint memories."""
        return tuple(name for name in BRANCHES if name in self.frames)

    def branch_width(self, branch: str) -> int:
        """Length of the features of a branch."""
        if branch == SUBTITLE:
            return self.text.width
        return self.audio_encoder.width if branch == "audio" and self.audio_encoder else self.tower.width

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values, readable by `from_dict`."""
        plain = dataclasses.replace(self, frames=dict(self.frames), modalities=dict(self.modalities))
        return dataclasses.asdict(plain)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MiCoConfig:
        """Inverse of `to_dict`. `ValueError` names unknown keys and the nearest known one."""
        fields = dict(values)
        for name, part in (("tower", TowerConfig), ("text", TextConfig)):
            if name in fields:
                fields[name] = build_dataclass(part, fields[name], name)
        if fields.get("audio_encoder") is not None:
            audio = fields["audio_encoder"]
            kind = AstConfig if audio.get("kind") == "ast" else BeatsConfig
            fields["audio_encoder"] = build_dataclass(kind, audio, "audio_encoder")
        fields["modalities"] = {
            name: build_dataclass(SliceConfig if "bins" in values else FrameConfig, values, f"modalities.{name}")
            for name, values in fields.get("modalities", {}).items()
        }
        config: MiCoConfig = build_dataclass(cls, fields, "config")
        return config
