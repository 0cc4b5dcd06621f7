"""Official tensor names <-> ours: the one table, read in both directions.

Patterns are those of `NameTable`, and in them `{m}` is a modality. A third entry says which third of the rows of our
tensor the official one is.
Our names here are those of the encoder; a pretraining model has them under `encoder.`.
"""

from __future__ import annotations

import re
from typing import Any

from one_peace.checkpoints.name_table import Kind, NameTable, Target

_BLOCK: list[tuple[Any, ...]] = [
    ("self_attn_layer_norm.{p}", "attention_norm.{p}"),
    ("self_attn.q_proj.weight", "attention.qkv.weight", 0),
    ("self_attn.k_proj.weight", "attention.qkv.weight", 1),
    ("self_attn.v_proj.weight", "attention.qkv.weight", 2),
    ("self_attn.q_proj.bias", "attention.q_bias"),
    ("self_attn.v_proj.bias", "attention.v_bias"),
    ("self_attn.ln.{p}", "attention.norm.{p}"),
    ("self_attn.out_proj.{p}", "attention.out.{p}"),
    ("gamma_1", "attention_scale"),
    ("gamma_2", "ffn_scale"),
    ("final_layer_norm.{p}", "ffn_norm.{p}"),
    ("{m}_ffn.0.wi_0.weight", "ffn.{m}.gate.weight"),
    ("{m}_ffn.0.wi_1.weight", "ffn.{m}.up.weight"),
    ("{m}_ffn.2.{p}", "ffn.{m}.norm.{p}"),
    ("{m}_ffn.3.{p}", "ffn.{m}.down.{p}"),
]

_TABLE: list[tuple[Any, ...]] = [
    ("logit_scale", "logit_scale"),
    # adapters: what all modalities have, then each one's own
    ("encoder_wrapper.{m}_adapter.cls_embedding", "adapters.{m}.cls"),
    ("encoder_wrapper.{m}_adapter.rel_pos_table_list.{i}.weight", "adapters.{m}.bias.tables.{i}"),
    ("encoder_wrapper.text_adapter.embed_tokens.weight", "adapters.text.tokens.weight"),
    ("encoder_wrapper.text_adapter.embed_positions.weight", "adapters.text.positions.weight"),
    ("encoder_wrapper.image_adapter.pos_embed", "adapters.image.positions.weight"),
    ("encoder_wrapper.image_adapter.embed_images.0.{p}", "adapters.image.patches.0.{p}"),
    ("encoder_wrapper.image_adapter.embed_images.1.layer_norm.{p}", "adapters.image.patches.1.{p}"),
    ("encoder_wrapper.image_adapter.embed_images.3.{p}", "adapters.image.patches.3.{p}"),
    ("encoder_wrapper.image_adapter.embed_images.4.layer_norm.{p}", "adapters.image.patches.4.{p}"),
    ("encoder_wrapper.image_adapter.embed_images.6.{p}", "adapters.image.patches.6.{p}"),
    ("encoder_wrapper.audio_adapter.cls_pos_embed", "adapters.audio.cls_position"),
    (
        "encoder_wrapper.audio_adapter.embed_audios.0.conv_layers.{i}.0.weight",
        "adapters.audio.frames.convs.{i}.weight",
    ),
    (
        "encoder_wrapper.audio_adapter.embed_audios.0.conv_layers.{i}.2.1.{p}",
        "adapters.audio.frames.norms.{i}.{p}",
    ),
    ("encoder_wrapper.audio_adapter.embed_audios.2.{p}", "adapters.audio.frames_norm.{p}"),
    ("encoder_wrapper.audio_adapter.embed_audios.3.{p}", "adapters.audio.frames_proj.{p}"),
    ("encoder_wrapper.audio_adapter.embed_positions.{j}.0.{p}", "adapters.audio.positions.convs.{j}.{p}"),
    # the encoder
    *[(f"encoder_wrapper.fusion_model.layers.{{i}}.{a}", f"fusion.blocks.{{i}}.{b}", *c) for a, b, *c in _BLOCK],
    ("encoder_wrapper.fusion_model.{m}_layer_norm.{p}", "fusion.norms.{m}.{p}"),
    ("{m}_proj.{p}", "projections.{m}.{p}"),
    # the decoder of the pretraining model
    ("decoder_{m}_embed.{p}", "decoder.inputs.{m}.{p}"),
    ("{m}_mask_token", "decoder.adapters.{m}.mask_token"),
    ("decoder_wrapper.image_adapter.pos_embed", "decoder.adapters.image.positions.weight"),
    ("decoder_wrapper.{m}_adapter.embed_positions.weight", "decoder.adapters.{m}.positions.weight"),
    *[
        (f"decoder_wrapper.fusion_model.layers.{{i}}.{a}", f"decoder.fusion.blocks.{{i}}.{b}", *c)
        for a, b, *c in _BLOCK
    ],
    ("decoder_wrapper.fusion_model.{m}_layer_norm.{p}", "decoder.fusion.norms.{m}.{p}"),
    ("{m}_mask_head.{p}", "decoder.outputs.{m}.{p}"),
    # the head of a fine-tuned task, and what tells the text and the pictures of an example apart
    ("classify_head.attn_pooling_func.q", "head.pooling.query"),
    ("classify_head.attn_pooling_func.k_proj.weight", "head.pooling.key.weight"),
    ("classify_head.attn_pooling_func.v_proj.{p}", "head.pooling.value.{p}"),
    ("classify_head.attn_pooling_func.out_proj.{p}", "head.pooling.out.{p}"),
    ("classify_head.norm.{p}", "head.norm.{p}"),
    ("classify_head.pooler.1.{p}", "head.pooler.{p}"),
    ("classify_head.classifier.0.{p}", "head.hidden.{p}"),
    ("classify_head.classifier.1.{p}", "head.hidden_norm.{p}"),
    ("classify_head.classifier.3.{p}", "head.out.{p}"),
    ("encoder_wrapper.image_adapter.type_embedding_2", "roles.second_image"),
    ("encoder_wrapper.{m}_adapter.type_embedding", "roles.{m}"),
    # what the published recogniser of videos adds to the vision branch
    ("encoder_wrapper.image_adapter.temporal_embedding", "video.positions"),
    *[
        (f"encoder_wrapper.fusion_model.layers.{{i}}.{a}_Adapter.D_fc{n}.{{p}}", f"video.{b}.{{i}}.{c}.{{p}}")
        for a, b in (("T", "time"), ("S", "space"), ("MLP", "joint"))
        for n, c in ((1, "down"), (2, "up"))
    ],
    # an adapter of a modality that the published code does not know keeps its own names
    ("encoder_wrapper.{x}_adapter.{rest}", "adapters.{x}.{rest}"),
    ("decoder_wrapper.{x}_adapter.{rest}", "decoder.adapters.{x}.{rest}"),
]

_LEGACY = [(re.compile(r"(.*_adapter)\.rel_pos_table\.weight"), r"\1.rel_pos_table_list.0.weight")]

_FIELDS = {
    "m": r"(?P<m>[a-zA-Z_]\w*)",
    "x": r"(?P<x>(?!(?:text|image|audio)(?:_adapter)?\.)[a-zA-Z_]\w*)",
}


_KEPT: list[tuple[str, Kind]] = [
    (r"(en|de)coder_wrapper\.\w+_adapter\.(rp_bucket|position_idx)", Kind.BUFFER),
    (r"(en|de)coder_wrapper\.fusion_model\.version", Kind.BUFFER),
    (r"(en|de)coder_wrapper\.audio_adapter\.mask_embedding", Kind.UNUSED),
    (r"decoder_wrapper\.\w+_adapter\.cls_embedding", Kind.UNUSED),
]


_NAMES = NameTable(_TABLE, _FIELDS)
_KEPT_PATTERNS = [(re.compile(pattern), kind) for pattern, kind in _KEPT]


def to_native(official: str) -> Target | Kind | None:
    """Our name for an official one; why it has none (`Kind`); or None for a name that nobody knows."""
    for pattern, kind in _KEPT_PATTERNS:
        if pattern.fullmatch(official):
            return kind
    for pattern, replacement in _LEGACY:
        official = pattern.sub(replacement, official)
    return _NAMES.to_native(official)


def to_official(native: str) -> list[str]:
    """The official names that make up one of our tensors, in the order of its rows; empty for an unknown name."""
    return _NAMES.to_official(native)


def bare_name(native: str) -> str:
    """A parameter's name as files have it: without the prefix of an encoder inside a larger model."""
    return native.removeprefix("encoder.")


def prefixed_name(bare: str) -> str:
    """The name that a tensor has in a model of encoder and decoder, or encoder and head: inverse of `bare_name`."""
    return bare if bare.startswith(("decoder.", "head.", "roles.")) else f"encoder.{bare}"


_MODALITY = [
    re.compile(r"(?:decoder\.)?(?:adapters|inputs|outputs|projections)\.(\w+)\..+"),
    re.compile(r"roles\.(?:second_)?(\w+)"),
    re.compile(r"(?:decoder\.)?fusion\.(?:norms|blocks\.\d+\.ffn)\.(\w+)\..+"),
]


def modality_of(native: str) -> str | None:
    """The modality that one of our tensors belongs to, None for what is shared."""
    for pattern in _MODALITY:
        match = pattern.fullmatch(native)
        if match:
            return match[1]
    return None


_VISION_NAMES = {
    "encoder.layer_norm": "encoder_wrapper.fusion_model.image_layer_norm",
    "fc_norm": "classify_head.norm",
    "head": "classify_head.classifier.3",
}
_VISION_CLASSIFIER = re.compile(rf"^({'|'.join(map(re.escape, _VISION_NAMES))})(?=\.(?:weight|bias)$)")


def from_vision(name: str) -> str:
    """A name in the vision branch file, or in a classifier of pictures or videos made from it -> the official one."""
    name = name.removeprefix("backbone.")
    name = _VISION_CLASSIFIER.sub(lambda match: _VISION_NAMES[match[1]], name)
    if name.startswith("image_adapter."):
        return f"encoder_wrapper.{name}"
    if name.startswith("encoder."):
        return f"encoder_wrapper.fusion_model.{name.removeprefix('encoder.')}"
    return name


def to_vision(official: str) -> str | None:
    """An official name -> that in the vision branch file, or None for what the branch leaves out."""
    if any(
        word in official for word in ("text", "audio", "decoder", "mask", "logit_scale", "version", "classify_head")
    ):
        return None
    if official.startswith("image_proj.") or "image_layer_norm." in official:
        return None
    name = official.replace("encoder_wrapper.", "encoder.").replace("fusion_model.", "")
    return name.removeprefix("encoder.") if name.startswith("encoder.image_adapter.") else name
