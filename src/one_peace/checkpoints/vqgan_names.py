"""Tensor names of taming-transformers' VQGAN <-> ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from one_peace.checkpoints.name_table import NameTable

_RESIDUAL = [(part, part) for part in ("norm1", "conv1", "norm2", "conv2")] + [("nin_shortcut", "shortcut")]
_ATTENTION = [("norm", "norm"), ("q", "query"), ("k", "key"), ("v", "value"), ("proj_out", "out")]

_TABLE = [
    ("quantize.proj.{p}", "scores.{p}"),
    ("quantize.embed.weight", "codebook.weight"),
    ("quant_conv.{p}", "before_codes.{p}"),
    ("post_quant_conv.{p}", "after_codes.{p}"),
    ("{side}.conv_in.{p}", "{side}.start.{p}"),
    ("{side}.norm_out.{p}", "{side}.norm.{p}"),
    ("{side}.conv_out.{p}", "{side}.end.{p}"),
    *[(f"{{side}}.mid.block_1.{a}.{{p}}", f"{{side}}.middle.first.{b}.{{p}}") for a, b in _RESIDUAL],
    *[(f"{{side}}.mid.block_2.{a}.{{p}}", f"{{side}}.middle.second.{b}.{{p}}") for a, b in _RESIDUAL],
    *[(f"{{side}}.mid.attn_1.{a}.{{p}}", f"{{side}}.middle.attention.{b}.{{p}}") for a, b in _ATTENTION],
    *[
        (f"{side}.{way}.{{i}}.{kind}.{{k}}.{a}.{{p}}", f"{side}.levels.{{i}}.{ours}.{{k}}.{b}.{{p}}")
        for side, way in (("encoder", "down"), ("decoder", "up"))
        for kind, ours, parts in (("block", "blocks", _RESIDUAL), ("attn", "attention", _ATTENTION))
        for a, b in parts
    ],
    ("encoder.down.{i}.downsample.conv.{p}", "encoder.levels.{i}.step.{p}"),
    ("decoder.up.{i}.upsample.conv.{p}", "decoder.levels.{i}.step.{p}"),
]

NAMES = NameTable(_TABLE, {"side": r"(?P<side>encoder|decoder)", "k": r"(?P<k>\d+)"})

_TRAINING_ONLY = ("loss.",)  # the discriminator and the perceptual network


def native_tensors(official: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of an official state dict under our names; `ValueError` names one that is in no Gumbel VQGAN."""
    tensors = {}
    for name, tensor in official.items():
        if name.startswith(_TRAINING_ONLY):
            continue
        target = NAMES.to_native(name)
        if target is None:
            raise ValueError(f"{name} is no tensor of a Gumbel VQGAN")
        tensors[target.name] = [tensor]
    return tensors


def infer_config(tensors: Mapping[str, list[Tensor]]) -> dict[str, Any]:
    """The configuration, as a plain dict, that tensors under our names belong to."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"{name} is missing: not a whole Gumbel VQGAN")
        return tuple(tensors[name][0].shape)

    def numbers(pattern: str) -> set[int]:
        return {int(found[1]) for name in tensors if (found := re.fullmatch(pattern, name))}

    width = shape("encoder.start.weight")[0]
    levels = numbers(r"encoder\.levels\.(\d+)\..*")
    outputs = [shape(f"encoder.levels.{level}.blocks.0.conv1.weight")[0] for level in sorted(levels)]
    codes, code_width = shape("codebook.weight")
    return {
        "codes": codes,
        "code_width": code_width,
        "width": width,
        "multipliers": tuple(channels // width for channels in outputs),
        "blocks": len(numbers(r"encoder\.levels\.0\.blocks\.(\d+)\..*")),
        "attention": tuple(sorted(numbers(r"encoder\.levels\.(\d+)\.attention\..*"))),
    }
