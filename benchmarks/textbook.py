"""The pretraining step as one would first write it: what `pretrain.py` compares with.

Every loss term embeds its inputs anew and makes an encoder pass of its own, all tokens to the end. Queries, keys and
values are three products, the bias is written out for every sample in every pass, attention is two batched products
around a float32 softmax, decoders compute every position to the end, and the
denoising contrast holds all its logits at once.
The same weights give the same losses and gradients as the library's step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from one_peace.modalities.base import Tokens
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.models.one_peace.pretraining import Decoder, OnePeaceForPretraining
from one_peace.nn.attention import Attention
from one_peace.nn.block import Block
from one_peace.nn.feed_forward import FeedForward
from one_peace.objectives.smoothing import smoothed_cross_entropy
from one_peace.tasks.pretraining import Masks, PretrainingBatch, PretrainingStage


class TextbookAttention(nn.Module):
    """Three projections, two batched products, a float32 softmax; bias (batch, heads, tokens, tokens)."""

    def __init__(self, fused: Attention) -> None:
        super().__init__()
        self.heads = fused.heads
        weights = fused.qkv.weight.detach().chunk(3)
        trained = fused.qkv.weight.requires_grad
        biases = (fused.q_bias, None, fused.v_bias)
        self.q, self.k, self.v = (_linear(w, b, trained) for w, b in zip(weights, biases, strict=True))
        self.norm, self.out = fused.norm, fused.out

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """(batch, tokens, width) -> the same shape."""
        batch, tokens, width = x.shape
        q, k, v = (
            y.view(batch, tokens, self.heads, -1).transpose(1, 2).reshape(batch * self.heads, tokens, -1)
            for y in (self.q(x), self.k(x), self.v(x))
        )
        logits = torch.bmm(q * (width // self.heads) ** -0.5, k.transpose(1, 2))
        if bias is not None:
            logits = logits + bias.reshape(batch * self.heads, tokens, tokens)
        heads = torch.bmm(logits.softmax(dim=-1, dtype=torch.float32).to(v.dtype), v)
        return self.out(self.norm(heads.view(batch, self.heads, tokens, -1).transpose(1, 2).reshape(x.shape)))


class TextbookFeedForward(nn.Module):
    """One operation after the other."""

    def __init__(self, fused: FeedForward) -> None:
        super().__init__()
        self.gate, self.up, self.norm, self.down = fused.gate, fused.up, fused.norm, fused.down

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same shape."""
        return self.down(self.norm(F.gelu(self.gate(x)) * self.up(x)))


class TextbookBlock(nn.Module):
    """A block without drop path."""

    def __init__(self, fused: Block) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = fused.attention_norm, fused.ffn_norm
        self.attention = TextbookAttention(fused.attention)
        experts = {name: expert for name, expert in fused.ffn.items() if isinstance(expert, FeedForward)}
        self.ffn = nn.ModuleDict({name: TextbookFeedForward(expert) for name, expert in experts.items()})
        self.attention_scale, self.ffn_scale = fused.attention_scale, fused.ffn_scale

    def forward(self, x: Tensor, bias: Tensor | None, segments: Sequence[tuple[str, int]]) -> Tensor:
        """x (batch, tokens, width) -> the same shape."""
        branch = self.attention(self.attention_norm(x), bias)
        x = x + (branch if self.attention_scale is None else self.attention_scale * branch)
        parts = self.ffn_norm(x).split([length for _, length in segments], dim=1)
        branch = torch.cat([self.ffn[name](part) for (name, _), part in zip(segments, parts, strict=True)], dim=1)
        return x + (branch if self.ffn_scale is None else self.ffn_scale * branch)


class TextbookStep(nn.Module):
    """The losses of a batch with the weights of `model`, of which it takes a copy; `recompute` as in the engine."""

    def __init__(self, model: OnePeaceForPretraining, stage: PretrainingStage, recompute: bool = False) -> None:
        super().__init__()
        self.model, self.stage, self.recompute = copy.deepcopy(model), stage, recompute
        for fusion in (self.model.encoder.fusion, self.decoder.fusion):
            fusion.blocks = nn.ModuleList(TextbookBlock(block) for block in fusion.blocks if isinstance(block, Block))

    @property
    def decoder(self) -> Decoder:
        assert self.model.decoder is not None  # what is compared is the whole step
        return self.model.decoder

    def forward(self, batch: PretrainingBatch) -> dict[str, Tensor]:
        """Loss terms and their weighted `total` (scalars), named as the library names them."""
        stage, encoder = self.stage, self.model.encoder
        anchor, partner = stage.anchor, stage.partner
        masks = batch.masks
        with torch.set_grad_enabled(stage.train_anchor):
            anchor_full = self.encode(batch, [anchor])[0][anchor]
            anchor_vector = encoder.project(anchor, anchor_full)
        partner_full = self.encode(batch, [partner])[0][partner]
        partner_vector = encoder.project(partner, partner_full)
        with torch.no_grad():
            teacher, tokens = self.encode(batch, [anchor, partner])
        scale = encoder.temperature()
        target = torch.arange(len(anchor_vector), device=anchor_vector.device)
        forward = smoothed_cross_entropy(scale * anchor_vector @ partner_vector.detach().t(), target)
        backward = smoothed_cross_entropy(scale * partner_vector @ anchor_vector.detach().t(), target)
        losses = {"contrast": (forward + backward) / 2}

        def term(student: Tensor, teacher: Tensor, name: str, place: str) -> Tensor:
            return self.denoising(student, teacher, masks[place], tokens[name].full_padding)

        if stage.train_anchor:
            student = self.reconstruct(batch, {anchor: masks["anchor"].keep})[anchor]
            losses["denoise_anchor"] = term(student, anchor_full, anchor, "anchor")
        student = self.reconstruct(batch, {partner: masks["partner"].keep})[partner]
        own = partner_full if stage.train_anchor else teacher[partner]
        losses["denoise_partner"] = term(student, own, partner, "partner")
        joint = self.reconstruct(batch, {anchor: masks["joint_anchor"].keep, partner: masks["joint_partner"].keep})
        losses["denoise_joint_anchor"] = term(joint[anchor], teacher[anchor], anchor, "joint_anchor")
        losses["denoise_joint_partner"] = term(joint[partner], teacher[partner], partner, "joint_partner")
        weights = {"contrast": 1.0} | {
            f"denoise_{place}": getattr(stage, f"{place}_weight")
            for place in ("anchor", "partner", "joint_anchor", "joint_partner")
        }
        losses["total"] = sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()).to(scale))
        return losses

    def encode(
        self, batch: PretrainingBatch, names: Sequence[str], keep: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tokens]]:
        """Features of all (kept) tokens, from the raw inputs, and the tokens that they are features of."""
        encoder = self.model.encoder
        embedded = encoder.embeddings({name: batch.inputs[name] for name in names})
        tokens = encoder.arrange(embedded, keep)
        return self.fuse(encoder.fusion, tokens), tokens

    def reconstruct(self, batch: PretrainingBatch, keep: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every position decoded from the kept ones."""
        decoder = self.decoder
        features, tokens = self.encode(batch, list(keep), keep)
        sequences = {}
        for name, visible in features.items():
            padding = tokens[name].full_padding
            x = decoder.adapters[name](decoder.inputs[name](visible), keep[name], tokens[name].layout)
            sequences[name] = Tokens(x, padding, [], tokens[name].layout, padding)
        return {name: decoder.outputs[name](x) for name, x in self.fuse(decoder.fusion, sequences).items()}

    def fuse(self, fusion: FusionEncoder, sequences: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """All blocks and final norms over the concatenation, with a bias per sample."""
        parts = list(sequences.values())
        lengths = [part.features.shape[1] for part in parts]
        segments = list(zip(sequences, lengths, strict=True))
        x = torch.cat([part.features for part in parts], dim=1)
        masks = [
            torch.zeros(x.shape[0], length, dtype=torch.bool, device=x.device) if part.padding is None else part.padding
            for part, length in zip(parts, lengths, strict=True)
        ]
        padding = torch.cat(masks, dim=1)
        x = x.masked_fill(padding[:, :, None], 0.0)
        first = fusion.blocks[0]
        assert isinstance(first, TextbookBlock)
        bias = torch.zeros(x.shape[0], first.attention.heads, x.shape[1], x.shape[1], device=x.device)
        start = 0
        for part, length in zip(parts, lengths, strict=True):
            if part.bias:
                bias[:, :, start : start + length, start : start + length] = part.bias[0]
            start += length
        bias = bias.masked_fill(padding[:, None, None, :], -math.inf)
        for block in fusion.blocks:
            x = (
                checkpoint(block, x, bias, segments, use_reentrant=False)
                if self.recompute
                else block(x, bias, segments)
            )
        return {
            name: fusion.norms[name](part) for (name, _), part in zip(segments, x.split(lengths, dim=1), strict=True)
        }

    def denoising(self, student: Tensor, teacher: Tensor, masks: Masks, padding: Tensor | None) -> Tensor:
        """The contrast of hidden positions with all, in one matrix."""
        real = torch.ones_like(masks.hidden) if padding is None else ~padding
        real, hidden = real[:, 1:].flatten(), masks.hidden[:, 1:].flatten()
        queries = F.normalize(student[:, 1:].flatten(0, 1)[real].float(), dim=1)
        keys = F.normalize(teacher[:, 1:].flatten(0, 1)[real].detach().float(), dim=1)
        rows = hidden[real].nonzero().squeeze(1)
        logits = self.stage.denoising_scale * queries[rows] @ keys.t()
        return smoothed_cross_entropy(logits, rows, self.stage.denoising_smoothing)

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the library's parameter names; those of the three projections put together again."""
        found = {name.removeprefix("model."): p.grad for name, p in self.named_parameters() if p.grad is not None}
        together: dict[str, Tensor] = {}
        for name, grad in found.items():
            if name.endswith(".attention.q.weight"):
                stem = name.removesuffix("q.weight")
                together[stem + "qkv.weight"] = torch.cat([found[stem + part + ".weight"] for part in "qkv"])
            elif name.endswith((".attention.q.bias", ".attention.v.bias")):
                together[name.replace(".q.bias", ".q_bias").replace(".v.bias", ".v_bias")] = grad
            elif not name.endswith((".attention.k.weight", ".attention.v.weight")):
                together[name] = grad
        return together


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    """A projection of its own with these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer
