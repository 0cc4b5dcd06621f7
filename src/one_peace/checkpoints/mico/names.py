"""Tensor names of published MiCo checkpoints and ours: the one table, read both ways."""

from __future__ import annotations

import re
from typing import Any

from one_peace.checkpoints.name_table import Kind, NameTable, Target

_TOWER: list[tuple[Any, ...]] = [
    ("cls_token", "cls"),
    ("pos_embed", "positions"),
    ("patch_embed.proj.{p}", "patches.{p}"),
    ("norm.{p}", "norm.{p}"),
    ("blocks.{i}.norm1.{p}", "blocks.{i}.attention_norm.{p}"),
    ("blocks.{i}.norm2.{p}", "blocks.{i}.ffn_norm.{p}"),
    ("blocks.{i}.attn.q_bias", "blocks.{i}.attention.q_bias"),
    ("blocks.{i}.attn.v_bias", "blocks.{i}.attention.v_bias"),
    ("blocks.{i}.attn.proj.{p}", "blocks.{i}.attention.out.{p}"),
]

_PLAIN: list[tuple[Any, ...]] = [  # EVA-01 towers, and bigE
    ("blocks.{i}.attn.qkv.weight", "blocks.{i}.attention.qkv.weight"),
    ("blocks.{i}.mlp.fc1.{p}", "blocks.{i}.ffn.up.{p}"),
    ("blocks.{i}.mlp.fc2.{p}", "blocks.{i}.ffn.down.{p}"),
]

_EVA02: list[tuple[Any, ...]] = [
    ("blocks.{i}.attn.q_proj.weight", "blocks.{i}.attention.qkv.weight", 0),
    ("blocks.{i}.attn.k_proj.weight", "blocks.{i}.attention.qkv.weight", 1),
    ("blocks.{i}.attn.v_proj.weight", "blocks.{i}.attention.qkv.weight", 2),
    ("blocks.{i}.attn.inner_attn_ln.{p}", "blocks.{i}.attention.norm.{p}"),
    ("blocks.{i}.mlp.w1.{p}", "blocks.{i}.ffn.gate.{p}"),
    ("blocks.{i}.mlp.w2.{p}", "blocks.{i}.ffn.up.{p}"),
    ("blocks.{i}.mlp.ffn_ln.{p}", "blocks.{i}.ffn.norm.{p}"),
    ("blocks.{i}.mlp.w3.{p}", "blocks.{i}.ffn.down.{p}"),
]

_TEXT: list[tuple[Any, ...]] = [
    ("bert.embeddings.word_embeddings.weight", "words.weight"),
    ("bert.embeddings.position_embeddings.weight", "positions.weight"),
    ("bert.embeddings.token_type_embeddings.weight", "types.weight"),
    ("bert.embeddings.LayerNorm.{p}", "norm.{p}"),
    ("bert.encoder.layer.{i}.attention.self.query.{p}", "blocks.{i}.attention.qkv.{p}", 0),
    ("bert.encoder.layer.{i}.attention.self.key.{p}", "blocks.{i}.attention.qkv.{p}", 1),
    ("bert.encoder.layer.{i}.attention.self.value.{p}", "blocks.{i}.attention.qkv.{p}", 2),
    ("bert.encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attention.out.{p}"),
    ("bert.encoder.layer.{i}.attention.output.LayerNorm.{p}", "blocks.{i}.attention_norm.{p}"),
    ("bert.encoder.layer.{i}.crossattention.self.query.{p}", "blocks.{i}.cross_attention.query.{p}"),
    ("bert.encoder.layer.{i}.crossattention.self.key.{p}", "blocks.{i}.cross_attention.key_value.{p}", 0),
    ("bert.encoder.layer.{i}.crossattention.self.value.{p}", "blocks.{i}.cross_attention.key_value.{p}", 1),
    ("bert.encoder.layer.{i}.crossattention.output.dense.{p}", "blocks.{i}.cross_attention.out.{p}"),
    ("bert.encoder.layer.{i}.crossattention.output.LayerNorm.{p}", "blocks.{i}.cross_attention_norm.{p}"),
    ("bert.encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.ffn.up.{p}"),
    ("bert.encoder.layer.{i}.output.dense.{p}", "blocks.{i}.ffn.down.{p}"),
    ("bert.encoder.layer.{i}.output.LayerNorm.{p}", "blocks.{i}.ffn_norm.{p}"),
    ("cls.predictions.bias", "prediction.bias"),
    ("cls.predictions.transform.dense.{p}", "prediction.dense.{p}"),
    ("cls.predictions.transform.LayerNorm.{p}", "prediction.norm.{p}"),
]

_BEATS: list[tuple[Any, ...]] = [
    ("patch_embedding.weight", "patches.weight"),
    ("layer_norm.{p}", "patches_norm.{p}"),
    ("post_extract_proj.{p}", "projection.{p}"),
    ("encoder.pos_conv.0.bias", "positions.bias"),
    ("encoder.pos_conv.0.weight_g", "positions.scale"),
    ("encoder.pos_conv.0.weight_v", "positions.direction"),
    ("encoder.layer_norm.{p}", "norm.{p}"),
    ("encoder.layers.0.self_attn.relative_attention_bias.weight", "bias.weight"),
    ("encoder.layers.{i}.self_attn.q_proj.{p}", "blocks.{i}.attention.qkv.{p}", 0),
    ("encoder.layers.{i}.self_attn.k_proj.{p}", "blocks.{i}.attention.qkv.{p}", 1),
    ("encoder.layers.{i}.self_attn.v_proj.{p}", "blocks.{i}.attention.qkv.{p}", 2),
    ("encoder.layers.{i}.self_attn.out_proj.{p}", "blocks.{i}.attention.out.{p}"),
    ("encoder.layers.{i}.self_attn.grep_linear.{p}", "blocks.{i}.attention.gate.{p}"),
    ("encoder.layers.{i}.self_attn.grep_a", "blocks.{i}.attention.gate_scale"),
    ("encoder.layers.{i}.self_attn_layer_norm.{p}", "blocks.{i}.attention_norm.{p}"),
    ("encoder.layers.{i}.fc1.{p}", "blocks.{i}.ffn.up.{p}"),
    ("encoder.layers.{i}.fc2.{p}", "blocks.{i}.ffn.down.{p}"),
    ("encoder.layers.{i}.final_layer_norm.{p}", "blocks.{i}.ffn_norm.{p}"),
]

_AST: list[tuple[Any, ...]] = [
    ("audio_embeddings.cls_token", "cls"),
    ("audio_embeddings.first_conv.{p}", "patches.{p}"),
    ("audio_embeddings.position_embeddings.weight", "positions"),
    ("audio_encoder.last_layernorm.{p}", "norm.{p}"),
    ("audio_encoder.layer.{i}.attention.linears.0.{p}", "blocks.{i}.attention.qkv.{p}", 0),
    ("audio_encoder.layer.{i}.attention.linears.1.{p}", "blocks.{i}.attention.qkv.{p}", 1),
    ("audio_encoder.layer.{i}.attention.linears.2.{p}", "blocks.{i}.attention.qkv.{p}", 2),
    ("audio_encoder.layer.{i}.attention.linears.3.{p}", "blocks.{i}.attention.out.{p}"),
    ("audio_encoder.layer.{i}.ff_layer.linear1.{p}", "blocks.{i}.ffn.up.{p}"),
    ("audio_encoder.layer.{i}.ff_layer.linear2.{p}", "blocks.{i}.ffn.down.{p}"),
    ("audio_encoder.layer.{i}.layernorm1.{p}", "blocks.{i}.attention_norm.{p}"),
    ("audio_encoder.layer.{i}.layernorm2.{p}", "blocks.{i}.ffn_norm.{p}"),
]

_REST: list[tuple[Any, ...]] = [
    ("contra_temp", "temperature"),
    ("contra_head_t.linear.weight", "contrast.text.weight"),
    ("contra_head_s.linear.weight", "contrast.subtitle.weight"),
    ("contra_head_v.linear.weight", "contrast.vision.weight"),
    ("contra_head_a.linear.weight", "contrast.audio.weight"),
    ("contra_head_d.linear.weight", "contrast.depth.weight"),
    ("contra_head_va.{p}", "contrast.vision_audio.{p}"),
    ("contra_head_vs.{p}", "contrast.vision_subtitle.{p}"),
    ("contra_head_vas.{p}", "contrast.vision_audio_subtitle.{p}"),
    ("contra_head_id.{p}", "contrast.vision_depth.{p}"),
    ("itm_head.linear1.{p}", "matching.dense.{p}"),
    ("itm_head.layernorm.{p}", "matching.norm.{p}"),
    ("itm_head.linear2.{p}", "matching.out.{p}"),
    ("hidden_trans_{b}_multimodal.0.{p}", "memory.{b}.projection.{p}"),
    ("hidden_trans_{b}_multimodal.1.{p}", "memory.{b}.norm.{p}"),
    ("{b}_frame_embedding", "memory.{b}.frames"),
    ("{b}_type_embeddings", "memory.{b}.kind"),
    *[(f"multimodal_encoder.{a}", f"text.{b}", *part) for a, b, *part in _TEXT],
    *[(f"audio_encoder.{a}", f"beats.{b}", *part) for a, b, *part in _BEATS],
    *[(a, f"ast.{b}", *part) for a, b, *part in _AST],
]


def _names(tower: list[tuple[Any, ...]]) -> NameTable:
    rows = [(f"vision_encoder.visual.{a}", f"tower.{b}", *part) for a, b, *part in _TOWER + tower]
    return NameTable(rows + _REST, {"b": "(?P<b>vision|audio|depth|subtitle)"})


_NAMES = {"eva01": _names(_PLAIN), "eva02": _names(_EVA02)}

TIED = {
    "multimodal_encoder.cls.predictions.decoder.weight": "multimodal_encoder.bert.embeddings.word_embeddings.weight",
    "multimodal_encoder.cls.predictions.decoder.bias": "multimodal_encoder.cls.predictions.bias",
}
"""Official tensors that are another one again."""

_SHARED_BIAS = re.compile(r"(audio_encoder\.encoder\.layers)\.[1-9]\d*(\.self_attn\.relative_attention_bias\.weight)")

_KEPT = [
    (re.compile(r"multimodal_encoder\.bert\.embeddings\.position_ids"), Kind.BUFFER),
    (re.compile(r"vision_encoder\.visual\.(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"), Kind.BUFFER),
    (re.compile(r"vision_encoder\.(text\..+|logit_scale|visual\.head\.(weight|bias))"), Kind.UNUSED),
]

_RENAMED = [("video", "vision"), ("evaclip_model", "vision_encoder"), ("clip_model", "vision_encoder")]


def current_name(name: str) -> str:
    """A name of an older checkpoint as newer ones have it: the first of the published replacements that applies."""
    name = name.removeprefix("module.")
    for old, new in _RENAMED:
        if old in name:
            return name.replace(old, new)
    return name


def tied_to(official: str) -> str | None:
    """The official tensor that this one is again, None for one of its own."""
    if _SHARED_BIAS.fullmatch(official):
        return _SHARED_BIAS.sub(r"\1.0\2", official)
    return TIED.get(official)


def to_native(official: str) -> Target | Kind | None:
    """Our name for a current official one; why it has none (`Kind`); or None for a name that nobody knows."""
    for pattern, kind in _KEPT:
        if pattern.fullmatch(official):
            return kind
    official = tied_to(official) or official
    return _NAMES["eva01"].to_native(official) or _NAMES["eva02"].to_native(official)


def to_official(native: str, *, eva02: bool = False) -> list[str]:
    """The official names that make up one of our tensors, in the order of its rows; empty for an unknown name.

    `eva02`: whether the tower is of that kind, whose names differ.
    """
    return _NAMES["eva02" if eva02 else "eva01"].to_official(native)
