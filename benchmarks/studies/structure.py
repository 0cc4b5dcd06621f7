"""What should modalities share? The paper: attention, and not the feed-forward.

The two other structures are made of the model's own parts. In all three a token goes through one attention and one
feed-forward of the same size per block, so a step costs the same arithmetic; the number of parameters differs.
Adapters, final norms, projections and the decoder are the same in all arms.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.attention import attend
from one_peace.nn.block import Block
from studies.setting import DENOISE_EVERY, IMAGES, Arm, Study, World

MODALITIES = ("text", "image")


class OwnBlock(nn.Module):
    """A block of its own for every modality; in joint sequences the tokens of all attend to each other.

    They start with the same attention, as that of the block they are copied from.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.own = nn.ModuleDict()
        for name in block.ffn:
            own = copy.deepcopy(block)
            own.ffn = nn.ModuleDict({name: own.ffn[name]})
            self.own[name] = own

    def forward(
        self, x: Tensor, bias: Tensor | None, segments: Sequence[tuple[str, int]], queries: int | None = None
    ) -> Tensor:
        """As `Block.forward`."""
        if len(segments) == 1:
            out: Tensor = self.own[segments[0][0]](x, bias, segments, queries)
            return out
        lengths = [length for _, length in segments]
        parts = list(zip([self._block(name) for name, _ in segments], x.split(lengths, dim=1), strict=True))
        q, k, v = torch.cat([_queries_keys_values(block, part) for block, part in parts], dim=3).unbind(0)
        attended = attend(q, k, v, bias).transpose(1, 2).flatten(2).split(lengths, dim=1)
        outs = []
        for segment, (block, part), mixed in zip(segments, parts, attended, strict=True):
            assert block.attention_scale is not None and block.ffn_scale is not None  # as of all models of the studies
            y = part + block.attention_scale * block.attention.out(block.attention.norm(mixed))
            outs.append(y + block.ffn_scale * block.feed(y, [segment]))
        return torch.cat(outs, dim=1)

    def _block(self, name: str) -> Block:
        block = self.own[name]
        assert isinstance(block, Block)
        return block


def _queries_keys_values(block: Block, x: Tensor) -> Tensor:
    """(batch, tokens, width) -> (3, batch, heads, tokens, head width)."""
    attention = block.attention
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    qkv = F.linear(block.attention_norm(x), attention.qkv.weight, bias)
    return qkv.unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)


def share_all(model: OnePeaceForPretraining) -> None:
    """One feed-forward for all modalities, in place."""
    for block in model.encoder.fusion.blocks:
        assert isinstance(block, Block)
        for name in MODALITIES[1:]:
            block.ffn[name] = block.ffn[MODALITIES[0]]


def separate_all(model: OnePeaceForPretraining) -> None:
    """Attention, norms and scales of its own for every modality, in place."""
    fusion = model.encoder.fusion
    fusion.blocks = nn.ModuleList(OwnBlock(block) for block in fusion.blocks if isinstance(block, Block))


def as_published(world: World, seed: int) -> OnePeaceForPretraining:
    return _train(world, world.model(MODALITIES, seed), seed)


def all_shared(world: World, seed: int) -> OnePeaceForPretraining:
    model = world.model(MODALITIES, seed)
    share_all(model)
    return _train(world, model, seed)


def all_separate(world: World, seed: int) -> OnePeaceForPretraining:
    model = world.model(MODALITIES, seed)
    separate_all(model)
    return _train(world, model, seed)


def _train(world: World, model: OnePeaceForPretraining, seed: int) -> OnePeaceForPretraining:
    world.train(model, world.recipe(IMAGES, seed, world.scale.steps, DENOISE_EVERY), "image")
    return model


STUDY = Study(
    question="What should modalities share in a block?",
    matched="Same steps, pairs and arithmetic; parameters differ.",
    arms=(
        Arm("shared attention, own FFN", as_published, "as published"),
        Arm("all shared", all_shared, "one block for all"),
        Arm("all separate", all_separate, "a block each; joint sequences attend across"),
    ),
    figures=("image -> text, held out: AUC", "image -> text, held out: R@10", "image -> text, seen: R@10"),
)
