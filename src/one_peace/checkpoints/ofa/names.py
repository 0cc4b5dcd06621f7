"""Tensor names of published OFA checkpoints and ours: the one table, read both ways, for both published layouts.

The table has the names of the original checkpoints (fairseq). The transformers-style ones differ in a few words, which
`from_port` and `to_port` exchange.
"""

from __future__ import annotations

import re
from typing import Any

from one_peace.checkpoints.name_table import Kind, NameTable, Target

_LAYER: list[tuple[Any, ...]] = [
    ("self_attn.q_proj.{p}", "attention.qkv.{p}", 0),
    ("self_attn.k_proj.{p}", "attention.qkv.{p}", 1),
    ("self_attn.v_proj.{p}", "attention.qkv.{p}", 2),
    ("self_attn.out_proj.{p}", "attention.out.{p}"),
    ("self_attn.c_attn", "attention.head_scale"),
    ("self_attn_layer_norm.{p}", "attention_norm.{p}"),
    ("fc1.{p}", "ffn.up.{p}"),
    ("ffn_layernorm.{p}", "ffn.norm.{p}"),
    ("fc2.{p}", "ffn.down.{p}"),
    ("final_layer_norm.{p}", "ffn_norm.{p}"),
    ("w_resid", "residual_scale"),
    ("adapter.down_proj.{p}", "adapter.down.{p}"),
    ("adapter.up_proj.{p}", "adapter.up.{p}"),
]

_CROSS: list[tuple[Any, ...]] = [
    ("encoder_attn.q_proj.{p}", "cross.query.{p}"),
    ("encoder_attn.k_proj.{p}", "cross.key_value.{p}", 0),
    ("encoder_attn.v_proj.{p}", "cross.key_value.{p}", 1),
    ("encoder_attn.out_proj.{p}", "cross.out.{p}"),
    ("encoder_attn.c_attn", "cross.head_scale"),
    ("encoder_attn_layer_norm.{p}", "cross_norm.{p}"),
    ("cross_attn_ln.{p}", "cross_out_norm.{p}"),
]

_BOTH: list[tuple[Any, ...]] = [  # of encoder and decoder
    ("layernorm_embedding.{p}", "text_norm.{p}"),
    ("embed_positions.weight", "positions.text.weight"),
    ("embed_image_positions.weight", "positions.image.weight"),
    ("pos_ln.{p}", "positions.text_norm.{p}"),
    ("image_pos_ln.{p}", "positions.image_norm.{p}"),
    ("layer_norm.{p}", "norm.{p}"),
    ("token_rel_pos_table_list.{i}.weight", "relative.text.tables.{i}"),
    ("image_rel_pos_table_list.{i}.weight", "relative.image.tables.{i}"),
    *[(f"layers.{{i}}.{a}", f"layers.{{i}}.{b}", *part) for a, b, *part in _LAYER],
]

_TABLE: list[tuple[Any, ...]] = [
    ("encoder.embed_tokens.weight", "tokens.weight"),
    *[(f"encoder.{a}", f"encoder.{b}", *part) for a, b, *part in _BOTH],
    ("encoder.layers.{i}.attn_ln.{p}", "encoder.layers.{i}.attention_out_norm.{p}"),
    ("encoder.type_embedding.weight", "encoder.types.weight"),
    ("encoder.patch_layernorm_embedding.{p}", "encoder.image_norm.{p}"),
    ("encoder.image_proj.{p}", "encoder.image_projection.{p}"),
    ("encoder.pos_q_linear.{p}", "encoder.position_bias.query.{p}"),
    ("encoder.pos_k_linear.{p}", "encoder.position_bias.key.{p}"),
    ("encoder.embed_images.conv1.weight", "encoder.trunk.conv.weight"),
    ("encoder.embed_images.bn1.{bn}", "encoder.trunk.norm.{bn}"),
    ("encoder.embed_images.layer{j}.{i}.conv{c}.weight", "encoder.trunk.stages.{j}.{i}.conv{c}.weight"),
    ("encoder.embed_images.layer{j}.{i}.bn{c}.{bn}", "encoder.trunk.stages.{j}.{i}.norm{c}.{bn}"),
    ("encoder.embed_images.layer{j}.{i}.downsample.0.weight", "encoder.trunk.stages.{j}.{i}.shortcut.0.weight"),
    ("encoder.embed_images.layer{j}.{i}.downsample.1.{bn}", "encoder.trunk.stages.{j}.{i}.shortcut.1.{bn}"),
    *[(f"decoder.{a}", f"decoder.{b}", *part) for a, b, *part in _BOTH],
    *[(f"decoder.layers.{{i}}.{a}", f"decoder.layers.{{i}}.{b}", *part) for a, b, *part in _CROSS],
    ("decoder.layers.{i}.self_attn_ln.{p}", "decoder.layers.{i}.attention_out_norm.{p}"),
    ("decoder.code_layernorm_embedding.{p}", "decoder.code_norm.{p}"),
    ("decoder.self_pos_q_linear.{p}", "decoder.self_position_bias.query.{p}"),
    ("decoder.self_pos_k_linear.{p}", "decoder.self_position_bias.key.{p}"),
    ("decoder.cross_pos_q_linear.{p}", "decoder.cross_position_bias.query.{p}"),
    ("decoder.cross_pos_k_linear.{p}", "decoder.cross_position_bias.key.{p}"),
]

_NAMES = NameTable(
    _TABLE,
    {"c": r"(?P<c>[123])", "bn": r"(?P<bn>weight|bias|running_mean|running_var|num_batches_tracked)"},
)

TIED = {
    "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
    "decoder.output_projection.weight": "encoder.embed_tokens.weight",
}
"""Official tensors that are another one again."""

_KEPT = [
    (re.compile(r"(en|de)coder\.(version|token_rp_bucket|image_rp_bucket|image_position_idx)"), Kind.BUFFER),
    (re.compile(r"classification_heads\..+"), Kind.UNUSED),
]

_PORT = [  # fairseq -> transformers-style, in this order
    (r"^decoder\.(layers\.\d+)\.encoder_attn_layer_norm\.", r"decoder.\1.cross_attn_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.encoder_attn\.", r"decoder.\1.cross_attn."),
    (r"^decoder\.(layers\.\d+)\.cross_attn_ln\.", r"decoder.\1.cross_attn_mid_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.self_attn_ln\.", r"decoder.\1.self_attn_mid_layer_norm."),
    (r"^encoder\.(layers\.\d+)\.attn_ln\.", r"encoder.\1.self_attn_mid_layer_norm."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffn_layernorm\.", r"\1.ffn_layer_norm."),
]
_FROM_PORT = [
    (r"^decoder\.(layers\.\d+)\.cross_attn_mid_layer_norm\.", r"decoder.\1.cross_attn_ln."),
    (r"^decoder\.(layers\.\d+)\.cross_attn_layer_norm\.", r"decoder.\1.encoder_attn_layer_norm."),
    (r"^decoder\.(layers\.\d+)\.cross_attn\.", r"decoder.\1.encoder_attn."),
    (r"^decoder\.(layers\.\d+)\.self_attn_mid_layer_norm\.", r"decoder.\1.self_attn_ln."),
    (r"^encoder\.(layers\.\d+)\.self_attn_mid_layer_norm\.", r"encoder.\1.attn_ln."),
    (r"^((?:en|de)coder\.layers\.\d+)\.ffn_layer_norm\.", r"\1.ffn_layernorm."),
]


def to_native(official: str) -> Target | Kind | None:
    """Our name for an official one; why it has none (`Kind`); or None for a name that nobody knows."""
    for pattern, kind in _KEPT:
        if pattern.fullmatch(official):
            return kind
    return _NAMES.to_native(TIED.get(official, official))


def to_official(native: str) -> list[str]:
    """The official names that make up one of our tensors, in the order of its rows; empty for an unknown name."""
    return _NAMES.to_official(native)


def to_port(official: str) -> str:
    """The transformers-style name for an official (fairseq) one."""
    return _exchange(official, _PORT)


def from_port(name: str) -> str:
    """The official (fairseq) name for a transformers-style one; others stay as they are."""
    return _exchange(name, _FROM_PORT)


def _exchange(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name
