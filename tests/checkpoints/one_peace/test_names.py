"""Every tensor of the published models has one name of ours, and the way back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from one_peace.checkpoints.name_table import Kind
from one_peace.checkpoints.one_peace.names import (
    Target,
    bare_name,
    from_vision,
    modality_of,
    to_native,
    to_official,
    to_vision,
)
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from parity_one_peace_shapes import counts, native_shapes, our_model

# rows: name with {} for a running number, shape, dtype, how often; listings: the rows of each published 4B model
FILE = json.loads((Path(__file__).parents[2] / "golden/one_peace/official_tensors_4b.json").read_text())
LISTINGS = sorted(FILE["listings"])


def listing(name: str) -> dict[str, tuple[int, ...]]:
    """Official names -> shapes of a published model."""
    rows = [FILE["rows"][i] for i in FILE["listings"][name]["rows"]]
    shapes = {row[0].format(i): tuple(row[1]) for row in rows for i in range(row[3])}
    assert len(shapes) == FILE["listings"][name]["entries"]
    return shapes


@pytest.mark.parametrize("name", LISTINGS)
def test_every_tensor_maps_both_ways(name: str) -> None:
    for official in listing(name):
        target = to_native(official)
        assert target is not None, official
        if isinstance(target, Target):
            names = to_official(target.name)
            assert names[target.part or 0] == official
            assert (target.part is None) == (len(names) == 1)
        else:
            buffer = any(word in official for word in ("rp_bucket", "position_idx", "version"))
            assert (target is Kind.BUFFER) == buffer


@pytest.mark.parametrize("name", LISTINGS)
def test_mapping_is_one_to_one(name: str) -> None:
    targets = [target for official in listing(name) if isinstance(target := to_native(official), Target)]
    assert len(set(targets)) == len(targets)


@pytest.mark.parametrize("name", LISTINGS)
def test_shapes_are_those_of_our_model(name: str) -> None:
    """The config that the shapes tell builds a model with exactly these parameters (2 of the 40 layers, for speed)."""
    deeper = re.compile(
        r"encoder_wrapper\.fusion_model\.layers\.(\d\d|[2-9])\..*|.*rel_pos_table_list\.(\d\d|[2-9])\..*"
    )
    shapes = native_shapes({n: s for n, s in listing(name).items() if not deeper.fullmatch(n)})
    model = our_model(name, shapes)
    assert isinstance(model, OnePeaceForPrediction) == name.startswith("classify")
    assert {bare_name(n): tuple(p.shape) for n, p in model.named_parameters()} == shapes


@pytest.mark.parametrize("name", LISTINGS)
def test_counts_by_part(name: str) -> None:
    """In all, trained (in stage 2 not all are), and of every modality, at full depth."""
    official, told = listing(name), FILE["listings"][name]
    found = counts(our_model(name, native_shapes(official)), official)
    assert found["total_params"] == told["parameters"] and found["trainable_params"] == told["trained"]
    assert found["by_group"] == told["groups"]


def test_published_parameter_count() -> None:
    rows = FILE["listings"]["retrieval_val"]
    unused = 1536  # the audio adapter's mask embedding, which is never used
    shapes = native_shapes(listing("retrieval_val"))
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert count == rows["parameters"] - unused == 3_884_740_545 - unused


def test_legacy_and_foreign_names() -> None:
    legacy = to_native("encoder_wrapper.image_adapter.rel_pos_table.weight")
    assert legacy == Target("adapters.image.bias.tables.0")
    assert to_native("encoder_wrapper.pulse_adapter.filters.weight") == Target("adapters.pulse.filters.weight")
    assert to_official("adapters.pulse.filters.weight") == ["encoder_wrapper.pulse_adapter.filters.weight"]
    for unknown in ("surprise", "encoder_wrapper.fusion_model.layers.0.gamma_3", "text_adapter.cls_embedding"):
        assert to_native(unknown) is None
    assert to_official("surprise") == []


def test_modalities_of_names() -> None:
    for name, modality in {
        "adapters.text.tokens.weight": "text",
        "decoder.adapters.audio.mask_token": "audio",
        "fusion.blocks.11.ffn.image.up.weight": "image",
        "decoder.fusion.norms.text.bias": "text",
        "projections.audio.weight": "audio",
        "fusion.blocks.0.attention.qkv.weight": None,
        "logit_scale": None,
    }.items():
        assert modality_of(name) == modality


def test_vision_names() -> None:
    """The vision branch holds the image adapter and the blocks, without final norm and projection."""
    names = [v for official in listing("retrieval_image") if (v := to_vision(official))]
    assert all(n.startswith(("image_adapter.", "encoder.layers.")) for n in names)
    assert {"image_adapter.pos_embed", "encoder.layers.39.image_ffn.3.bias"} <= set(names)
    assert all(to_vision(from_vision(n)) == n and to_native(from_vision(n)) is not None for n in names)
