"""MiCo: one tower for all knowledge modalities, language as the interface (arXiv 2406.09412, section 3).

features = model.encode("image", frames)                    # one tower for pictures, videos, sounds, depth, normals
vectors = model.project(("vision",), {"vision": model.pool("vision", features)})   # for contrast
memory = model.remember({"vision": features})               # for the text model to read
scores = model.match(tokens, model.text.project_memory(memory))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.mico.audio_encoders import Ast, Beats
from one_peace.models.mico.config import BRANCHES, SUBTITLE, AstConfig, BeatsConfig, MiCoConfig, branch_of
from one_peace.models.mico.heads import Matching, MemoryProjection
from one_peace.models.mico.text import PAD_ID, Memory, TextModel
from one_peace.models.mico.tower import Tower
from one_peace.nn.linear import Linear

TEXT = "text"
ORDER = ("vision", "audio", SUBTITLE, "depth")
"""Of the parts of joint features and memories."""

JOINT = (("vision", "audio"), ("vision", SUBTITLE), ("vision", "audio", SUBTITLE), ("vision", "depth"))
"""What has a head of its own for joint embeddings, where the model has the branches."""

FIRST_TEMPERATURE = 0.07


class MiCoModel(nn.Module):
    """Tensors in, tensors out: single-device mathematics."""

    def __init__(self, config: MiCoConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = Tower(config.tower)
        audio = config.audio_encoder
        self.beats = Beats(audio) if isinstance(audio, BeatsConfig) else None
        self.ast = Ast(audio) if isinstance(audio, AstConfig) else None
        self.text = TextModel(config.text)
        self.matching = Matching(config.text.width)
        parts = [*config.branches, SUBTITLE]
        widths = {name: config.branch_width(name) for name in parts}
        self.memory = nn.ModuleDict(
            {name: MemoryProjection(widths[name], config.text.width, config.frames.get(name, 0)) for name in parts}
        )
        heads = {name: Linear(widths[name], config.contrast_width, bias=False) for name in parts}
        heads[TEXT] = Linear(config.text.width, config.contrast_width, bias=False)
        for names in JOINT:
            if all(name in widths for name in names):
                heads["_".join(names)] = Linear(sum(widths[name] for name in names), config.contrast_width)
        self.contrast = nn.ModuleDict(heads)
        self.temperature = nn.Parameter(torch.tensor(FIRST_TEMPERATURE))  # similarities are divided by it

    @property
    def audio_encoder(self) -> Beats | Ast | None:
        """What encodes sounds in place of the tower."""
        return self.beats or self.ast

    def initialise(self) -> None:
        """Initial values of tower and text model, as published; the rest has PyTorch's."""
        self.tower.initialise()
        self.text.initialise()

    def encode(self, modality: str, inputs: Mapping[str, Tensor], cls_only: bool = False) -> Tensor:
        """Features (batch, n, tokens, width) of a knowledge modality.

        Args:
            inputs: `frames` (batch, n, 3, size, size), or for sounds `slices` (batch, n, time, mel).
            cls_only: where the tower encodes, the class token of each frame alone, which is all that `pool` needs.
        """
        if branch_of(modality) not in self.config.frames:
            raise ValueError(f"this model has no branch for {modality!r}; it has {', '.join(self.config.branches)}")
        if "slices" in inputs:
            slices = inputs["slices"]
            if self.audio_encoder is not None:
                sounds: Tensor = self.audio_encoder(slices.flatten(0, 1))
                return sounds.unflatten(0, slices.shape[:2])
            frames = slices[:, :, None].expand(-1, -1, 3, -1, -1)  # three times the same channel
        else:
            frames = inputs["frames"]
        features: Tensor = self.tower(frames.flatten(0, 1), cls_only)
        return features.unflatten(0, frames.shape[:2])

    def pool(self, branch: str, features: Tensor) -> Tensor:
        """Features (batch, n, tokens, width) of a branch -> (batch, width), the mean over frames of the class token."""
        if branch == "audio" and self.audio_encoder is not None:
            return self.audio_encoder.pool(features)
        return features[:, :, 0].mean(dim=1)

    def project(self, names: Sequence[str], pooled: Mapping[str, Tensor]) -> Tensor:
        """Unit-length embeddings (batch, contrast_width) of one part or several jointly.

        `pooled` has, by name, (batch, width) of branches, or the state of the first token of texts and subtitles.
        """
        names = [name for name in (TEXT, *ORDER) if name in names]
        key = "_".join(names)
        if key not in self.contrast:
            raise ValueError(f"this model has no head for {' + '.join(names)}; it has {', '.join(self.contrast)}")
        return F.normalize(self.contrast[key](torch.cat([pooled[name] for name in names], dim=-1)), dim=-1)

    def remember(self, features: Mapping[str, Tensor]) -> Tensor:
        """The memory (batch, tokens, text width) that texts are read with.

        Features by name: (batch, n, tokens, width) of branches, (batch, tokens, width) of subtitles. Nothing is masked:
        padded subtitles and silent slices are a part of it, as published.
        """
        parts = []
        for name in ORDER:
            if name not in features:
                continue
            x = features[name]
            if name == SUBTITLE:
                x = x[:, None]
            elif self.config.pool_frames:
                x = torch.stack([x[:, :, 0], x[:, :, 1:].mean(dim=2)], dim=2)
            parts.append(self.memory[name](x))
        if not parts:
            raise ValueError(f"a memory needs features of at least one of {', '.join((*BRANCHES, SUBTITLE))}")
        return torch.cat(parts, dim=1)

    def match(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Logits of no and yes (rows, 2) for token ids (rows, length), each with its input of the memory.

        Several rows in a row may share an input: there are rows / inputs for each.
        """
        hidden = self.text(tokens, tokens != PAD_ID, memory, cls_only=True)
        logits: Tensor = self.matching(hidden[:, 0])
        return logits

    def embed(self, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit-length embeddings (batch, contrast_width) of one modality; of texts, `inputs` has `tokens`."""
        if modality == TEXT:
            tokens = inputs["tokens"]
            return self.project((TEXT,), {TEXT: self.text(tokens, tokens != PAD_ID, cls_only=True)[:, 0]})
        branch = branch_of(modality)
        whole = branch == "audio" and self.audio_encoder is not None
        return self.project((branch,), {branch: self.pool(branch, self.encode(modality, inputs, cls_only=not whole))})
