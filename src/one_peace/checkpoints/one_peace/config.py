"""Configuration of an official checkpoint: what the tensors' shapes say, then what its stored settings add."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from one_peace.errors import CheckpointError
from one_peace.modalities.image import PATCH
from one_peace.nn.relative_position import CLS_ROWS

Shapes = Mapping[str, tuple[int, ...]]
OFFICIAL_MODALITIES = ("text", "image", "audio")
HEAD_WIDTH = 64  # of every published model
MOST_CONVOLUTIONS = 64  # of the waveform
FIXED: Mapping[str, Any] = {  # choices of every published model
    "activation_fn": "gelu",
    "normalize_before": True,
    "magneto_scale_attn": True,
    "scale_fc": True,
    "scale_attn": False,
    "scale_heads": False,
}
FIXED_OF_ADAPTERS: Mapping[str, Any] = {
    "shrink_alpha": 1.0,
    "layernorm_embedding": False,
    "conv_pos_pre_ln": False,
    "conv_bias": False,
}
PUBLISHED_STRIDES = {10: 5}  # kernel -> stride of the waveform convolutions; otherwise 2


def infer_config(name: str, shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config dict from native names -> shapes (encoder names unprefixed) and the stored `cfg`, {} for none.

    Shapes win over settings: fine-tuning scripts stored the values they started from. But a file has the layers that it
    says it has.
    """
    model, task = _mapping(settings.get("model")), _mapping(settings.get("task"))
    stored = _mapping(model.get("encoder"))
    modalities = [m for m in OFFICIAL_MODALITIES if f"adapters.{m}.cls" in shapes]
    if not modalities or "fusion.blocks.0.attention_norm.weight" not in shapes:
        raise CheckpointError(f"{name}: holds no ONE-PEACE encoder (no adapters or no fusion layers)")
    decodes = "decoder.fusion.blocks.0.attention_norm.weight" in shapes
    for part in ("encoder", "decoder") if decodes else ("encoder",):
        _check_fixed(part, _mapping(model.get(part)), modalities)
    tables = [f"adapters.{m}.bias.tables.0" for m in modalities if f"adapters.{m}.bias.tables.0" in shapes]
    config = _blocks(shapes, "fusion", modalities, stored)
    if tables:
        config["heads"] = shapes[tables[0]][1]
    has_scale = "fusion.blocks.0.attention_scale" in shapes
    config |= {
        "name": name,
        "layer_scale": float(stored.get("layer_scale_init_value", 1e-6)) if has_scale else None,
        "drop_path": float(stored.get("drop_path_rate") or 0.0),
        "per_layer_bias": any(f"adapters.{m}.bias.tables.1" in shapes for m in modalities),
        "modalities": {
            m: CONFIGS[m](shapes, config["width"], _mapping(stored.get(f"{m}_adapter")), task) for m in modalities
        },
        "decoder": None,
        "head": _head(shapes, config["width"], modalities, model),
    }
    if decodes:
        config["decoder"] = _blocks(shapes, "decoder.fusion", modalities, _mapping(model.get("decoder")))
        config["decoder"]["mask_padding"] = True
    return config


def _check_fixed(where: str, stack: Mapping[str, Any], modalities: list[str]) -> None:
    """Refuses settings of other models, some of which do not show in any shape. None says nothing."""
    places = [(where, stack, FIXED)]
    places += [(f"{where}.{m}_adapter", _mapping(stack.get(f"{m}_adapter")), FIXED_OF_ADAPTERS) for m in modalities]
    for place, stored, fixed in places:
        for key, value in fixed.items():
            if stored.get(key) not in (None, value):
                raise CheckpointError(f"{place}.{key} is {stored[key]!r}; ONE-PEACE models have {value!r}")


def _head(shapes: Shapes, width: int, modalities: list[str], model: Mapping[str, Any]) -> dict[str, Any] | None:
    """The head of a fine-tuned file, None without one."""
    if "head.out.weight" not in shapes:
        return None
    outputs, last = shapes["head.out.weight"]
    hidden = shapes.get("head.hidden.weight")
    if "head.pooling.query" in shapes:
        pooling = "attention"
    else:  # the published classifier of the vision branch pools the mean unless its encoder ends in a norm
        pooling = "cls" if hidden or "head.norm.weight" not in shapes else "mean"
    order = ("image", "audio", "text") if model.get("use_image_features") else OFFICIAL_MODALITIES
    return {
        "outputs": outputs,
        "reads": next(name for name in order if name in modalities),
        "pooling": pooling,
        "hidden": hidden[0] if hidden else None,
        "pooler": "head.pooler.weight" in shapes,
        "pictures": (hidden[1] if hidden else last) // width,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    """A nested part of the settings; older files hold argparse namespaces."""
    return value if isinstance(value, Mapping) else getattr(value, "__dict__", {})


def _blocks(shapes: Shapes, prefix: str, modalities: list[str], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Width, layers, heads and feed-forward width of a stack of blocks."""
    width = shapes[f"{prefix}.blocks.0.attention_norm.weight"][0]
    gates = [shapes[key] for m in modalities if (key := f"{prefix}.blocks.0.ffn.{m}.gate.weight") in shapes]
    if not gates:
        raise CheckpointError(f"{prefix}.blocks.0 has no feed-forward of any of {', '.join(modalities)}")
    heads = int(stored.get("attention_heads") or max(1, width // HEAD_WIDTH))
    found = 1 + _last(shapes, rf"{re.escape(prefix)}\.blocks\.(\d+)\..*")
    layers = max(found, int(stored.get("layers") or 0))  # a file that lacks its last ones is no smaller model
    return {"width": width, "layers": layers, "heads": heads, "ffn_width": gates[0][0]}


def _last(shapes: Shapes, pattern: str) -> int:
    """The largest number in names of a pattern, -1 if none matches."""
    return max((int(match[1]) for name in shapes if (match := re.fullmatch(pattern, name))), default=-1)


def _side(squares: int, where: str) -> int:
    side = math.isqrt(max(squares, 0))
    if side * side != squares or not side:
        raise CheckpointError(f"{where}: {squares} rows besides those of cls are no square grid")
    return side


def _rows(shapes: Shapes, name: str, default: int) -> int:
    return shapes[name][0] if name in shapes else default


def _text(shapes: Shapes, width: int, stored: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": _rows(shapes, "adapters.text.tokens.weight", 50264),
        "max_positions": _rows(shapes, "adapters.text.positions.weight", 514),
        "bias_buckets": (_rows(shapes, "adapters.text.bias.tables.0", 514) - CLS_ROWS + 1) // 2,
        "max_tokens": int(task.get("max_src_length") or 70),
    }


def _image(shapes: Shapes, width: int, stored: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    positions, table = "adapters.image.positions.weight", "adapters.image.bias.tables.0"
    grid = _side(_rows(shapes, positions, 257) - 1, positions)
    span = _side(_rows(shapes, table, (2 * grid - 1) ** 2 + CLS_ROWS) - CLS_ROWS, table)
    bias_grid = (span + 1) // 2
    size = int(task.get("patch_image_size") or 0)
    return {
        "image_size": size if size and size % PATCH == 0 else bias_grid * PATCH,
        "grid": grid,
        "bias_grid": bias_grid,
    }


def _audio(shapes: Shapes, width: int, stored: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    found = [
        shapes[f"adapters.audio.frames.convs.{i}.weight"]
        for i in range(1 + _last(shapes, r"adapters\.audio\.frames\.convs\.(\d+)\.weight"))
    ]
    if not (stated := stored.get("feature_encoder_spec")):
        spec = [(s[0], s[2], PUBLISHED_STRIDES.get(s[2], 2)) for s in found]
    else:
        spec = parse_convolutions(stated)
        if [(c, k) for c, k, _ in spec] != [(s[0], s[2]) for s in found]:  # whose strides nothing tells then
            there = ", ".join(str((s[0], s[2])) for s in found)
            what = "are not those of the tensors, whose (channels, kernel) are" if spec else "cannot be read; those are"
            raise CheckpointError(f"feature_encoder_spec: the convolutions {stated!r} {what} {there}")
    depth = 1 + _last(shapes, r"adapters\.audio\.positions\.convs\.(\d+)\.weight")
    kernel_shape = shapes.get("adapters.audio.positions.convs.0.weight", (width, width, 3))
    total = int(stored.get("conv_pos_width") or 0)
    if not depth or max(3, total // depth) != kernel_shape[2]:
        total = depth * kernel_shape[2]
    return {
        "convs": [list(conv) for conv in spec],
        "position_depth": depth,
        "position_width": total,
        "position_groups": max(1, width // kernel_shape[1]),
        "bias_buckets": (_rows(shapes, "adapters.audio.bias.tables.0", 1026) - CLS_ROWS + 1) // 2,
        "max_seconds": float(task.get("max_duration") or 15),
        "exact_padding": True,
    }


CONFIGS = {"text": _text, "image": _image, "audio": _audio}


def parse_convolutions(spec: Any) -> list[tuple[int, int, int]]:
    """`"[(512, 10, 5)] + [(512, 3, 2)] * 4"`, or a list of rows -> (channels, kernel, stride) rows; [] for others."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body):
                return value(body)
            case ast.List(elements) | ast.Tuple(elements):
                return [value(element) for element in elements]
            case ast.Constant(int(number)):
                return number
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Mult(), right):
                rows, times = sorted((value(left), value(right)), key=lambda side: isinstance(side, int))
                if len(rows) * times <= MOST_CONVOLUTIONS:
                    return rows * times
        raise ValueError(f"no list of numbers: {ast.dump(node)}")

    try:
        listed = spec if isinstance(spec, list | tuple) else value(ast.parse(spec.strip(), mode="eval"))
        rows = [tuple(row) for row in listed]
    except (AttributeError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return []
    return [(c, k, s) for c, k, s in rows] if all(len(row) == 3 for row in rows) else []


def official_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `cfg` of an official container for a plain config dict: what the published loaders read from it."""
    modalities = config["modalities"]

    def stack(shape: Mapping[str, Any], encoder: bool) -> dict[str, Any]:
        audio = modalities.get("audio", {})
        convs = audio.get("convs") or []
        spec = " + ".join(f"[({', '.join(str(n) for n in conv)})]" for conv in convs)
        image = modalities.get("image", {})
        common = {
            "layernorm_embedding": False,
            "add_type_embedding": False,
            "shrink_alpha": 1.0,
            "dropout": 0.0,
            "use_attn_bias": encoder,
        }
        return {
            "embed_dim": shape["width"],
            "ffn_embed_dim": shape["ffn_width"],
            "layers": shape["layers"],
            "attention_heads": shape["heads"],
            **FIXED,
            "learned_pos": True,
            "drop_path_rate": config["drop_path"] if encoder else 0.0,
            "use_layer_scale": encoder and config["layer_scale"] is not None,
            "layer_scale_init_value": config["layer_scale"] or 1e-6,
            **{f"use_{m}_moe": m in modalities for m in OFFICIAL_MODALITIES},
            "text_adapter": common | {"bucket_size": modalities.get("text", {}).get("bias_buckets", 256)},
            "image_adapter": common
            | {
                "bucket_size": image.get("grid", 16),
                "rel_bucket_size": image.get("bias_grid", 16),
                "vision_encoder_type": "hmlp" if encoder else "none",
            },
            "audio_adapter": common
            | {
                "feature_embed_dim": convs[-1][0] if convs else 512,
                "feature_encoder_spec": spec,
                "abs_pos_type": "conv" if encoder else "fixed",
                "conv_pos_depth": audio.get("position_depth", 5),
                "conv_pos_width": audio.get("position_width", 95),
                "conv_pos_groups": audio.get("position_groups", 16),
                "conv_pos_pre_ln": False,
                "conv_bias": False,
                "bucket_size": audio.get("bias_buckets", 512),
            },
        }

    model = {"encoder": stack(config, encoder=True)}
    if config.get("decoder"):
        model["decoder"] = stack(config["decoder"], encoder=False)
    initials = "".join(
        {"text": "l", "image": "v", "audio": "a"}.get(m, "") for m in ("image", "audio", "text") if m in modalities
    )
    head = {"l": "text", "v": "image", "a": "audio", "vl": "vl", "al": "al"}.get(initials, "val")
    if config.get("head"):
        model |= _head_settings(config)
    task = {
        "head_type": head,
        "patch_image_size": modalities.get("image", {}).get("image_size", 256),
        "max_src_length": modalities.get("text", {}).get("max_tokens", 70),
        "max_duration": modalities.get("audio", {}).get("max_seconds", 15.0),
    }
    name = "one_peace_pretrain" if config.get("decoder") else "one_peace_retrieval"
    if config.get("head"):
        name = "one_peace_classify"
    return {"model": {"_name": name, **model}, "task": task}


def _head_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the published classification model reads from its part of the settings."""
    head = config["head"]
    return {
        "attn_pooling": head["pooling"] == "attention",
        "use_pooler": head["pooler"],
        "pooler_dropout": 0.0,
        "head_scale_ratio": (head["hidden"] or config["width"]) / config["width"],
        "use_image_features": head["reads"] != "text" and "text" in config["modalities"],  # or those of sounds
        "use_two_images": head["pictures"] == 2,
        "num_classes": head["outputs"],
        "freeze_finetune_updates": 0,
    }
