"""Configuration of a published OFA checkpoint: what the tensors' shapes say, then what its stored settings add."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from one_peace.errors import CheckpointError
from one_peace.media.pictures import HALVES, IMAGENET
from one_peace.nn.relative_position import CLS_ROWS, MAX_POSITIONS

FAMILY = "ofa"  # in our config.json: what tells the families of models apart
Shapes = Mapping[str, tuple[int, ...]]
CODE_PIXELS = 8  # that an image code stands for, in each direction
CELL_PIXELS = 16
PUBLISHED_CODES, PUBLISHED_BINS = 8192, 1000
SPECIALS = 4
TAILS = (769, 768)  # of the persisted code positions, in the two published layouts
RESNETS = {
    (2, 2, 2): "resnet18",
    (3, 4, 6): "resnet50",
    (3, 4, 23): "resnet101",
    (3, 8, 36): "resnet152",
}
"""Blocks of a trunk -> the published name; all of them are made of bottleneck blocks."""

_FIXED = {
    "activation_fn": "gelu",
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "no_scale_embedding": True,
    "share_all_embeddings": True,
}
"""Settings with one value in every published model, the only one that the model here has."""

_PORT_SETTINGS = {  # transformers-style key -> that of the original settings
    "activation_function": "activation_fn",
    "attention_dropout": "attention_dropout",
    "attn_scale_factor": "attn_scale_factor",
    "code_image_size": "code_image_size",
    "dropout": "dropout",
    "encoder_drop_path_rate": "encoder_drop_path_rate",
    "entangle_position_embedding": "entangle_position_embedding",
    "orig_patch_image_size": "orig_patch_image_size",
    "patch_image_size": "patch_image_size",
}
_PORT_SAME = (  # settings that both layouts call the same
    "add_type_embedding",
    "attn_scale_factor",
    "code_image_size",
    "code_layernorm_embedding",
    "dropout",
    "entangle_position_embedding",
    "image_bucket_size",
    "layernorm_embedding",
    "orig_patch_image_size",
    "patch_image_size",
    "patch_layernorm_embedding",
    "resnet_type",
    "token_bucket_size",
)
_PORT_TASK = ("num_bins", "code_dict_size", "max_image_size", "prompt_type")


def settings_of_port(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a transformers-style config.json, as an original checkpoint stores them."""
    model = {ours: values[theirs] for theirs, ours in _PORT_SETTINGS.items() if theirs in values}
    task: dict[str, Any] = {key: values[key] for key in _PORT_TASK if key in values}
    # Its decoder adds positions only where its encoder does.
    return {"model": model | {"disable_entangle": not values.get("entangle_position_embedding", False)}, "task": task}


def infer_config(name: str, shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config dict from native names -> shapes and the stored settings (`model`, `task`), {} for none.

    Shapes win over settings: fine-tuning scripts stored the values they started from.

    Raises:
        CheckpointError: tensors that every OFA model has are missing or of no OFA shape, or a setting has a value that
            no OFA model here has.
    """
    model, task = _mapping(settings.get("model")), _mapping(settings.get("task"))
    for setting, value in _FIXED.items():
        if model.get(setting, value) not in (value, None):
            raise CheckpointError(f"{name}: its setting {setting} is {model[setting]!r}; OFA here has {value!r} alone")
    needed = (
        "tokens.weight",
        "encoder.layers.0.ffn.up.weight",
        "encoder.relative.text.tables.0",
        "encoder.relative.image.tables.0",
        "encoder.positions.text.weight",
        "decoder.layers.0.ffn.up.weight",
    )
    if missing := [tensor for tensor in needed if tensor not in shapes]:
        raise CheckpointError(f"{name}: holds no OFA model, it lacks {', '.join(missing)}")
    vocabulary, width = shapes["tokens.weight"]
    text_rows, heads = shapes["encoder.relative.text.tables.0"]
    codes, bins = _extra_symbols(vocabulary, task)
    mean, deviation = IMAGENET if task.get("imagenet_default_mean_and_std") else HALVES
    config: dict[str, Any] = {
        "family": FAMILY,
        "name": name,
        "width": width,
        "heads": heads,
        "ffn_width": shapes["encoder.layers.0.ffn.up.weight"][0],
        "encoder_layers": _count(shapes, r"encoder\.layers\.(\d+)\..*"),
        "decoder_layers": _count(shapes, r"decoder\.layers\.(\d+)\..*"),
        "trunk": [_count(shapes, rf"encoder\.trunk\.stages\.{stage}\.(\d+)\..*") for stage in range(3)],
        "vocabulary": vocabulary,
        "codes": codes,
        "bins": bins,
        "image_size": int(task.get("patch_image_size") or model.get("patch_image_size") or 384),
        "image_mean": list(mean),
        "image_std": list(deviation),
        "box_size": int(task.get("max_image_size") or 512),
        "code_grid": _code_grid(shapes, model),
        "text_positions": shapes["encoder.positions.text.weight"][0],
        "image_grid": _image_grid(name, shapes),
        "text_buckets": (text_rows + 1) // 2,
        "position_scale": float(model.get("attn_scale_factor", 2)),
        "attention_norm": "encoder.layers.0.attention_out_norm.weight" in shapes,
        "ffn_norm": "encoder.layers.0.ffn.norm.weight" in shapes,
        "head_scale": "encoder.layers.0.attention.head_scale" in shapes,
        "residual_scale": "encoder.layers.0.residual_scale" in shapes,
        "text_norm": "encoder.text_norm.weight" in shapes,
        "image_norm": "encoder.image_norm.weight" in shapes,
        "code_norm": "decoder.code_norm.weight" in shapes,
        "types": "encoder.types.weight" in shapes,
        "adapter_width": shapes.get("encoder.layers.0.adapter.down.weight", (None,))[0],
        "encoder_entangled": bool(model.get("entangle_position_embedding", False)),
        "decoder_entangled": not model.get("disable_entangle", True),
        "dropout": float(model.get("dropout") or 0.0),
        "drop_path": float(model.get("encoder_drop_path_rate") or 0.0),
        "interpolate_positions": None,
        "prompt": str(task.get("prompt_type") or "none"),
    }
    if model.get("interpolate_position"):
        config["interpolate_positions"] = int(model.get("orig_patch_image_size") or 256) // CELL_PIXELS
    return config


def official_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an original checkpoint for a plain config dict: what the published loader reads."""
    model = {"_name": "ofa", "arch": "ofa_base"} | {
        f"{side}_{key}": config[ours]
        for side in ("encoder", "decoder")
        for key, ours in (
            ("embed_dim", "width"),
            ("ffn_embed_dim", "ffn_width"),
            ("layers", f"{side}_layers"),
            ("attention_heads", "heads"),
            ("drop_path_rate", "drop_path"),
        )
    }
    model |= _FIXED | {f"{side}_learned_pos": True for side in ("encoder", "decoder")}
    model |= {
        "share_decoder_input_output_embed": True,
        "layernorm_embedding": config["text_norm"],
        "patch_layernorm_embedding": config["image_norm"],
        "code_layernorm_embedding": config["code_norm"],
        "add_type_embedding": config["types"],
        "scale_attn": config["attention_norm"],
        "scale_fc": config["ffn_norm"],
        "scale_heads": config["head_scale"],
        "scale_resids": config["residual_scale"],
        "entangle_position_embedding": config["encoder_entangled"],
        "disable_entangle": not config["decoder_entangled"],
        "attn_scale_factor": config["position_scale"],
        "token_bucket_size": config["text_buckets"],
        "image_bucket_size": config["image_grid"],
        "max_source_positions": MAX_POSITIONS,
        "max_target_positions": MAX_POSITIONS,
        "resnet_type": _resnet(config),
        "code_image_size": config["code_grid"] * CODE_PIXELS,
        "patch_image_size": config["image_size"],
        "orig_patch_image_size": (config["interpolate_positions"] or 16) * CELL_PIXELS,
        "interpolate_position": config["interpolate_positions"] is not None,
        "dropout": config["dropout"],
    }
    task = {
        "patch_image_size": config["image_size"],
        "max_image_size": config["box_size"],
        "num_bins": config["bins"],
        "code_dict_size": config["codes"],
        "prompt_type": config["prompt"],
        "imagenet_default_mean_and_std": tuple(config["image_mean"]) == IMAGENET[0],
    }
    return {"model": model, "task": task}


def port_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a transformers-style folder for a plain config dict.

    Raises:
        CheckpointError: the port has no such model.
    """
    switches = {name: config[name] for name in ("attention_norm", "ffn_norm", "head_scale")}
    if config["residual_scale"] or config["interpolate_positions"] or not all(switches.values()):
        raise CheckpointError(
            f"{config['name']}: the transformers-style layout has no residual_scale and no interpolate_positions, and "
            f"always the other switches; here {switches}"
        )
    official = official_settings(config)
    sides = {
        f"{side}_{key}": config[ours]
        for side in ("encoder", "decoder")
        for key, ours in (("layers", f"{side}_layers"), ("attention_heads", "heads"), ("ffn_dim", "ffn_width"))
    }
    return {
        "model_type": "ofa",
        "architectures": ["OFAModel"],
        "vocab_size": config["vocabulary"],
        "d_model": config["width"],
        "max_position_embeddings": MAX_POSITIONS,
        "normformer": True,
        "share_decoder_input_output_embed": True,
        "tie_word_embeddings": True,
        "activation_function": "gelu",
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 2,
        **sides,
        **{key: official["model"][key] for key in _PORT_SAME},
        **{key: official["task"][key] for key in _PORT_TASK},
    }


def _resnet(config: Mapping[str, Any]) -> str:
    """The published name of a trunk, for the ones that have one."""
    return RESNETS.get(tuple(config["trunk"]), "x".join(map(str, config["trunk"])))


def _mapping(value: Any) -> Mapping[str, Any]:
    """A part of the settings; older files hold argparse namespaces."""
    return value if isinstance(value, Mapping) else getattr(value, "__dict__", {})


def _count(shapes: Shapes, pattern: str) -> int:
    return 1 + max((int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))), default=-1)


def _extra_symbols(vocabulary: int, task: Mapping[str, Any]) -> tuple[int, int]:
    """Image codes and box coordinates at the end of the vocabulary; none where it has no room for the published."""
    codes, bins = task.get("code_dict_size", PUBLISHED_CODES), task.get("num_bins", PUBLISHED_BINS)
    if "code_dict_size" not in task and vocabulary <= codes + bins + SPECIALS:
        return 0, 0
    return int(codes), int(bins)


def _code_grid(shapes: Shapes, model: Mapping[str, Any]) -> int:
    """Side of the grid of codes: as stored, or as the length of the persisted positions has it."""
    if model.get("code_image_size"):
        return int(model["code_image_size"]) // CODE_PIXELS
    (length,) = shapes.get("decoder.image_position_idx", (0,))
    sides = [math.isqrt(length - 1 - tail) for tail in TAILS if length > 1 + tail]
    return next((side for side, tail in zip(sides, TAILS, strict=False) if side**2 + 1 + tail == length), 16)


def _image_grid(name: str, shapes: Shapes) -> int:
    rows = shapes["encoder.relative.image.tables.0"][0]
    span = math.isqrt(max(0, rows - CLS_ROWS))
    if span**2 + CLS_ROWS != rows or span % 2 == 0:
        raise CheckpointError(f"{name}: encoder.relative.image.tables.0 has {rows} rows, which is no square grid")
    return (span + 1) // 2
