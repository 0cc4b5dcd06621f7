"""Configuration of an official MiCo checkpoint: the shapes of its tensors, and its `log/hps.json`; and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from one_peace.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

BASE = {"width": 768, "layers": 12, "head_width": 64, "drop_path_rate": 0.0}
TOWERS: dict[str, dict[str, float]] = {  # the published towers by their type, as an entry `eva` says it of others
    "evaclip01_giant": {"width": 1408, "layers": 40, "head_width": 88, "drop_path_rate": 0.4},
    "evaclip02_base": BASE,
    "evaclip02_base_self": BASE,
    "evaclip02_large": {"width": 1024, "layers": 24, "head_width": 64, "drop_path_rate": 0.0},
    "evaclip02_bige": {"width": 1792, "layers": 64, "head_width": 112, "drop_path_rate": 0.0},
}
ROTARY_GRID = 16  # of the published EVA-02 towers
BERT = {"hidden_size": 768, "num_hidden_layers": 12}  # bert-base-uncased
BERT_HEAD, BERT_DROPOUT = 64, 0.1
AUDIO_HEAD = 64
BEATS_DISTANCE = 800  # of the published BEATs files
AUDIO_PATCH = 16
AST_BINS, AST_MEAN, AST_DEVIATION = 64, -4.2677393, 4.5689974
BEATS_BINS, BEATS_FRAMES = 64, 1024
BRANCHES = ("vision", "audio", "depth")
CONTRAST = "contrast.text.weight"


def infer_config(name: str, shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config dict from native names -> shapes and the `model_cfg` of hps.json.

    Heads cannot be read off the shapes: they come from the type of the tower or, for towers of other sizes, from an
    entry `eva` (the tower's own configuration) and, for the text model, `bert`. What these say of widths and layers
    has to be so: a file without its last blocks has the shapes of a shallower model.
    """
    kind = str(settings.get("vision_encoder_type", ""))
    if kind not in TOWERS:
        raise CheckpointError(f"{name}: vision_encoder_type {kind!r} is none of {', '.join(TOWERS)}")
    needed = ("tower.positions", "tower.patches.weight", "text.words.weight", CONTRAST)
    absent = [key for key in needed if key not in shapes]
    if absent:
        raise CheckpointError(f"{name}: holds no MiCo model: it has nothing for {', '.join(absent)}")
    eva = (settings.get("eva") or {}).get("vision_cfg") or TOWERS[kind]
    bert = settings.get("bert") or BERT
    tower = _tower(shapes, settings, eva, kind)
    width, layers, contrast = shapes["text.words.weight"][1], _count(shapes, "text.blocks"), shapes[CONTRAST][0]
    for part, said, found in (
        ("layers of the tower", eva.get("layers"), tower["layers"]),
        ("width of the tower", eva.get("width"), tower["width"]),
        ("layers of the text model", bert.get("num_hidden_layers"), layers),
        ("width of the text model", bert.get("hidden_size"), width),
        ("contra_dim", settings.get("contra_dim"), contrast),
    ):
        if said is not None and said != found:
            raise CheckpointError(f"{part}: {said} by the model_cfg of hps.json, {found} by the tensors")
    adaptive = settings.get("frame_embedding_type", "adaptive") == "adaptive"
    frames = {}
    for branch in BRANCHES:
        if f"memory.{branch}.kind" in shapes:
            table = shapes.get(f"memory.{branch}.frames", (1, 0, width))[1]
            # the published loader resizes the tables of vision and audio, not that of depth, and only adaptive ones
            resized = adaptive and branch != "depth"
            count = _number(settings, f"max_{branch}_sample_num", table) if resized else table
            frames[branch] = 0 if branch == "vision" and not adaptive else int(count or table)
    audio = _audio_encoder(shapes, settings)
    return {
        "name": name,
        "tower": tower,
        "text": {
            "width": width,
            "layers": layers,
            "heads": int(bert.get("num_attention_heads") or max(1, width // BERT_HEAD)),
            "ffn_width": shapes["text.blocks.0.ffn.up.weight"][0],
            "vocab_size": shapes["text.words.weight"][0],
            "max_positions": shapes["text.positions.weight"][0],
            "dropout": float(_number(bert, "hidden_dropout_prob", BERT_DROPOUT)),
        },
        "contrast_width": contrast,
        "frames": frames,
        "modalities": input_settings(tower["image_size"], frames, audio),
        "audio_encoder": audio,
        "pool_frames": bool(settings.get("pool_video", False)),
        "matching_weight": float(_number(settings, "itm_ratio", 0.1)),
        "beams": int(_number(settings, "beam_size", 3)),
        "max_caption_tokens": int(_number(settings, "max_caption_len", 40)),
        "max_joint_caption_tokens": int(_number(settings, "max_omni_caption_len", 70)),
        "max_subtitle_tokens": int(_number(settings, "max_subtitle_len", 70)),
        "family": "mico",
    }


def input_settings(
    size: int, frames: Mapping[str, int], audio_encoder: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """How each modality becomes frames of `size` pixels, or slices: as many as the model's tables have rows."""
    settings: dict[str, dict[str, Any]] = {
        "image": {"size": size, "count": 1},
        "video": {"size": size, "count": max(1, frames["vision"])},
    }
    if "audio" in frames:
        count = max(1, frames["audio"])
        settings["audio"] = {"bins": size, "frames": size, "count": count, "size": size}
        if audio_encoder and audio_encoder["kind"] == "beats":
            settings["audio"] = {"bins": BEATS_BINS, "frames": BEATS_FRAMES, "count": count, "size": None}
        elif audio_encoder:
            settings["audio"] = {
                "bins": audio_encoder["mel_bins"],
                "frames": audio_encoder["frames"],
                "count": count,
                "size": None,
                "mean": AST_MEAN,
                "deviation": AST_DEVIATION,
                "scale": "ast",
            }
    if "depth" in frames:
        settings |= {"depth": {"size": size, "count": 1}, "normals": {"size": size, "count": 1}}
    return settings


def official_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """An hps.json for a plain config dict, from which `infer_config` makes the same model."""
    tower, text, frames = config["tower"], config["text"], config["frames"]
    eva02 = tower["kind"] == "eva02"
    kind = {"eva01": "evaclip01_giant", "eva02": "evaclip02_base", "post_norm": "evaclip02_bige"}[tower["kind"]]
    vision = {
        "layers": tower["layers"],
        "width": tower["width"],
        "head_width": tower["width"] // tower["heads"],
        "mlp_ratio": tower["ffn_width"] / tower["width"],
        "patch_size": tower["patch"],
        "drop_path_rate": tower["drop_path"],
    }
    if eva02:
        vision |= {"rope": True, "intp_freq": True, "naiveswiglu": True, "subln": True}
        vision["pt_hw_seq_len"] = tower["rotary_grid"]
    model = {
        "vision_encoder_type": kind,
        "vision_resolution": tower["image_size"],
        "checkpointing": False,
        "contra_dim": config["contrast_width"],
        "frame_embedding_type": "adaptive" if frames["vision"] else "none",
        "pool_video": config["pool_frames"],
        "beam_size": config["beams"],
        "itm_ratio": config["matching_weight"],
        "max_caption_len": config["max_caption_tokens"],
        "max_omni_caption_len": config["max_joint_caption_tokens"],
        "max_subtitle_len": config["max_subtitle_tokens"],
        **{f"max_{branch}_sample_num": count for branch, count in frames.items()},
        **({"audio_melbins": config["audio_encoder"]["mel_bins"]} if _is_ast(config) else {}),
        "eva": {"vision_cfg": vision},
        "bert": {
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "intermediate_size": text["ffn_width"],
            "hidden_dropout_prob": text["dropout"],
        },
    }
    return {"run_cfg": {}, "model_cfg": model, "data_cfg": {}, "local_rank": 0}


def _is_ast(config: Mapping[str, Any]) -> bool:
    return bool((config.get("audio_encoder") or {}).get("kind") == "ast")


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{name} in the model_cfg of hps.json is a number, not {value!r}")
    return value


def _tower(shapes: Shapes, settings: Mapping[str, Any], eva: Mapping[str, Any], kind: str) -> dict[str, Any]:
    width, _, patch, _ = shapes["tower.patches.weight"]
    head = int(eva.get("head_width", TOWERS[kind]["head_width"]))
    if width % head:
        raise CheckpointError(f"a tower of width {width} has no heads of {head}, the width of those of {kind}")
    gated = "tower.blocks.0.ffn.gate.weight" in shapes
    side = math.isqrt(shapes["tower.positions"][1] - 1)
    return {
        "width": width,
        "layers": _count(shapes, "tower.blocks"),
        "heads": width // head,
        "ffn_width": shapes["tower.blocks.0.ffn.up.weight"][0],
        "patch": patch,
        "image_size": int(settings.get("vision_resolution") or side * patch),
        "kind": "eva02" if gated else "post_norm" if kind == "evaclip02_bige" or eva.get("postnorm") else "eva01",
        "rotary_grid": int(eva.get("pt_hw_seq_len", ROTARY_GRID)),
        "drop_path": float(eva.get("drop_path_rate", TOWERS[kind]["drop_path_rate"])),
    }


def _audio_encoder(shapes: Shapes, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    for kind in ("beats", "ast"):
        if f"{kind}.blocks.0.ffn.up.weight" not in shapes:
            continue
        hidden, width = shapes[f"{kind}.blocks.0.ffn.up.weight"]
        blocks = {"width": width, "layers": _count(shapes, f"{kind}.blocks"), "ffn_width": hidden, "kind": kind}
        if kind == "ast":
            bins = int(settings.get("audio_melbins", AST_BINS))
            frames = (shapes["ast.positions"][0] - 1) // (bins // AUDIO_PATCH) * AUDIO_PATCH
            return blocks | {"mel_bins": bins, "frames": frames, "heads": max(1, width // AUDIO_HEAD)}
        kernel = shapes["beats.positions.direction"]
        buckets, heads = shapes["beats.bias.weight"]
        return blocks | {
            "heads": heads,
            "patch_width": shapes["beats.patches.weight"][0],
            "position_kernel": kernel[2],
            "position_groups": kernel[0] // kernel[1],
            "buckets": buckets,
            "max_distance": BEATS_DISTANCE,
        }
    return None


def _count(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\..+")
    return 1 + max(int(match[1]) for name in shapes if (match := pattern.fullmatch(name)))
