"""The published backbone of video recognition: the vision branch on every frame, with small adapters between frames.

Unlike the modality `video`, which is pretrained like any other, this one is fine-tuned from pictures; its files have
the names of the vision branch (paper, appendix on video recognition).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.errors import CheckpointError
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import Backbone
from one_peace.nn.block import Block
from one_peace.nn.linear import Linear

SHRINK = 4  # how much narrower an adapter is than the model
JOINT_SHARE = 0.5  # of what the adapter beside the feed-forward expert adds


class Bottleneck(nn.Module):
    """Down, GELU, up. It begins by adding nothing."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = Linear(width, inner), Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(F.gelu(self.down(x)))
        return y


class VideoAdapters(nn.Module):
    """A position for every frame, and three bottlenecks for each block: over time, over space, beside the expert."""

    def __init__(self, width: int, layers: int, frames: int, inner: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, frames, width))
        self.time, self.space, self.joint = (
            nn.ModuleList(Bottleneck(width, inner) for _ in range(layers)) for _ in range(3)
        )


class VideoBackbone(Backbone):
    """Frames as pictures; in every block each place also attends over time, with the attention of the pictures.

    As published, what is found over time only changes what attention over space sees: it does not stay in the stream.
    """

    def __init__(self, config: OnePeaceConfig, frames: int, inner: int | None = None) -> None:
        super().__init__(config)
        if config.layer_scale is None or tuple(config.modalities) != ("image",):
            raise ValueError("the video backbone is made of the vision branch, with layer scale")
        self.video = VideoAdapters(config.width, config.layers, frames, inner or config.width // SHRINK)

    def recognise(self, video: Tensor) -> Tensor:
        """video (batch, 3, frames, height, width), normalised like pictures -> each frame's cls (batch, frames, width).

        `ValueError` for another number of frames than the model's.
        """
        batch, _, frames, *_ = video.shape
        if frames != self.video.positions.shape[1]:
            raise ValueError(f"the model takes {self.video.positions.shape[1]} frames, not {frames}")
        tokens = self.arrange(self.embeddings({"image": {"pixels": video.transpose(1, 2).flatten(0, 1)}}))["image"]
        x = (tokens.features.unflatten(0, (batch, frames)) + self.video.positions[:, :, None]).flatten(0, 1)
        biases = tokens.bias if len(tokens.bias) > 1 else tokens.bias * len(self.fusion.blocks)
        for number, bias in enumerate(biases):
            x = self._block(number, x, bias, frames)
        cls: Tensor = self.fusion.norms["image"](x[:, 0])
        return cls.unflatten(0, (batch, frames))

    def _block(self, number: int, x: Tensor, bias: Tensor, frames: int) -> Tensor:
        """x (batch * frames, tokens, width)."""
        block, video = self.fusion.blocks[number], self.video
        assert isinstance(block, Block)
        assert block.attention_scale is not None and block.ffn_scale is not None
        over_time = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # (batch * tokens, frames, width)
        found = video.time[number](block.attend(over_time, None, None))
        seen = x + found.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)
        branch = block.attend(seen, bias, None)
        x = x + block.attention_scale * (branch + video.space[number](branch))
        y = block.ffn_norm(x)
        return x + block.ffn_scale * block.ffn["image"](y) + JOINT_SHARE * video.joint[number](y)


def load_video_backbone(path: str | os.PathLike[str], device: str = "cpu") -> VideoBackbone:
    """A backbone from a published file, whose classifier (`cls_head`) is left aside.

    Raises:
        CheckpointError: the file is of another model, or has tensors that do not fit, which are all named.
    """
    checkpoint = read_official(Path(path))
    positions = checkpoint.tensors.get("video.positions")
    down = checkpoint.tensors.get("video.time.0.down.weight")
    if positions is None or down is None:
        raise CheckpointError(f"{path}: has no adapters between frames; it is no video backbone")
    config = OnePeaceConfig.from_dict({**checkpoint.config, "head": None, "decoder": None})
    with torch.device("meta"):
        model = VideoBackbone(config, positions[0].shape[1], down[0].shape[0])
    tensors = dict(checkpoint.tensors)
    tensors |= {name: [checkpoint.official[name]] for name in checkpoint.unknown if not name.startswith("cls_head.")}
    try:
        assign_tensors(model, tensors, device)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval()
