"""The ONE-PEACE checks of `parity.py` that concern published state dicts: names, shapes, counts; on no memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.one_peace.config import infer_config
from one_peace.checkpoints.one_peace.names import bare_name, modality_of, to_native, to_official
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import AUDIO_TEXT, freeze_for_stage
from parity import Check, Comparison
from parity_files import Fixture, load_fixture

Shapes = dict[str, tuple[int, ...]]


def native_shapes(official: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Shapes of our tensors, the thirds of one that stand alone in the official file put together."""
    shapes: Shapes = {}
    for name, shape in official.items():
        target = to_native(name)
        if isinstance(target, Target):
            before = shapes.get(target.name)
            shapes[target.name] = shape if before is None else (before[0] + shape[0], *shape[1:])
    return shapes


def official_shapes(fixture: Fixture) -> Shapes:
    """Those of the official tensors that a file lists."""
    return {name: tuple(entry["shape"]) for name, entry in fixture.meta["tensors"].items()}


def our_model(name: str, shapes: Shapes) -> nn.Module:
    """The model that these shapes tell; one that is pretrained on sounds frozen as in stage 2."""
    config = OnePeaceConfig.from_dict(infer_config(name, shapes, {}))
    kind = OnePeaceForPretraining if config.decoder else OnePeaceForPrediction if config.head else OnePeaceEncoder
    with torch.device("meta"):
        model = kind(config)
    if isinstance(model, OnePeaceForPretraining) and AUDIO_TEXT.partner in config.modalities:
        freeze_for_stage(model, AUDIO_TEXT)
    return model


def counts(model: nn.Module, official: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Parameters in all, trained, and by group, those that the published model has and never reads included."""
    groups: Counter[str] = Counter()
    for name, parameter in model.named_parameters():  # mask tokens and outputs of the decoder count to their modality
        decoder = to_official(bare_name(name))[0].startswith("decoder")
        groups["decoder" if decoder else modality_of(bare_name(name)) or "shared"] += parameter.numel()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    for name, shape in official.items():
        if to_native(name) is Kind.UNUSED:
            group = "decoder" if name.startswith("decoder") else name.split("_adapter")[0].rpartition(".")[2]
            groups[group] += prod(shape)
            trained += prod(shape)
    return {
        "total_params": groups.total(),
        "trainable_params": trained,
        "by_group": dict(groups),
        "entries": len(official),
    }


def check_state_dict(fixture: Fixture, compare: Comparison) -> None:
    """Every entry: known, read under the name that leads back to it, and of the shape that our model has."""
    official = official_shapes(fixture)
    shapes = native_shapes(official)
    model = our_model(fixture.path.stem, shapes)
    ours = {bare_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    compare.exact("names", sorted(ours), sorted(shapes))
    for name, shape in ours.items():
        compare.exact(f"shape of {name}", shape, shapes.get(name))
    trained = {bare_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, entry in fixture.meta["tensors"].items():
        target = to_native(name)
        compare.exact(f"{name} is known", target is not None, True)
        if isinstance(target, Target):
            compare.exact(f"{name} and back", to_official(target.name)[target.part or 0], name)
            compare.exact(f"{name} is frozen", target.name not in trained, bool(entry.get("frozen")))
        if "kind" in entry:
            compare.exact(f"{name} is a buffer", target is Kind.BUFFER, entry["kind"] == "buffer")
    for key, number in counts(model, official).items():
        compare.exact(key, number, fixture.meta[key])


def check_summary(fixture: Fixture, compare: Comparison) -> None:
    """The counts of every model whose state dict lies beside the summary."""
    prefix = fixture.path.stem.removesuffix("summary")
    for name, expected in fixture.meta.items():
        beside = fixture.path.with_name(f"{prefix}{name}.json")
        if beside.exists():
            official = official_shapes(load_fixture(beside))
            for key, number in counts(our_model(name, native_shapes(official)), official).items():
                compare.exact(f"{key} of {name}", number, expected[key])
        else:
            compare.leave_out(name, f"{beside.name} is not there")


CHECKS: dict[str, Check] = {"state_dict_4b": check_state_dict, "state_dict_4b_summary": check_summary}
