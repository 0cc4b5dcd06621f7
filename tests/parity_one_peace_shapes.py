"""The ONE-PEACE checks of `parity.py` that concern published state dicts: names, shapes, counts; on no memory."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch

from one_peace.checkpoints.name_table import Target
from one_peace.checkpoints.names import Kind, bare_name, modality_of, to_native, to_official
from one_peace.checkpoints.official_config import infer_config
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from parity import Check, Comparison, Fixture, load_fixture

Shapes = dict[str, tuple[int, ...]]


def native_shapes(listed: dict[str, Any]) -> Shapes:
    """Shapes of our tensors, the thirds of one that stand alone in the official file put together."""
    shapes: Shapes = {}
    for official, entry in listed.items():
        target = to_native(official)
        if isinstance(target, Target):
            first, *rest = entry["shape"] or (None,)
            before = shapes[target.name][0] if target.name in shapes else 0
            shapes[target.name] = () if first is None else (before + first, *rest)
    return shapes


def our_shapes(name: str, shapes: Shapes) -> Shapes:
    """Shapes of the parameters of the model that these shapes tell, by the names of files."""
    config = OnePeaceConfig.from_dict(infer_config(name, shapes, {}))
    kind = OnePeaceForPretraining if config.decoder else OnePeaceForPrediction if config.head else OnePeaceEncoder
    with torch.device("meta"):
        model = kind(config)
    return {bare_name(name): tuple(parameter.shape) for name, parameter in model.named_parameters()}


def counts(ours: Shapes, listed: dict[str, Any]) -> dict[str, Any]:
    """Parameters in all and by group, those that the published model has and never reads included."""
    groups: Counter[str] = Counter()
    for name, shape in ours.items():  # mask tokens and what stands behind the decoder count to their modality
        decoder = to_official(name)[0].startswith("decoder")
        groups["decoder" if decoder else modality_of(name) or "shared"] += prod(shape)
    for official, entry in listed.items():
        if to_native(official) is Kind.UNUSED and entry["kind"] == "param":
            group = "decoder" if official.startswith("decoder") else official.split("_adapter")[0].rpartition(".")[2]
            groups[group] += prod(entry["shape"])
    return {"total_params": groups.total(), "by_group": dict(groups), "entries": len(listed)}


def check_state_dict(fixture: Fixture, compare: Comparison) -> None:
    """Every entry: known, read under the name that leads back to it, and of the shape that our model has."""
    listed = fixture.meta["tensors"]
    shapes = native_shapes(listed)
    ours = our_shapes(fixture.path.stem, shapes)
    compare.exact("names", sorted(ours), sorted(shapes))
    for name, shape in ours.items():
        compare.exact(f"shape of {name}", shape, shapes.get(name))
    for official in listed:
        target = to_native(official)
        compare.exact(f"{official} is known", target is not None, True)
        if isinstance(target, Target):
            compare.exact(f"{official} and back", to_official(target.name)[target.part or 0], official)
    for name, number in counts(ours, listed).items():
        compare.exact(name, number, fixture.meta[name])


def check_summary(fixture: Fixture, compare: Comparison) -> None:
    """The counts of every model whose state dict lies beside the summary."""
    prefix = fixture.path.stem.removesuffix("summary")
    for name, expected in fixture.meta.items():
        beside = fixture.path.with_name(f"{prefix}{name}.json")
        if beside.exists():
            listed = load_fixture(beside).meta["tensors"]
            for key, number in counts(our_shapes(name, native_shapes(listed)), listed).items():
                compare.exact(f"{key} of {name}", number, expected[key])


CHECKS: dict[str, Check] = {"state_dict_4b": check_state_dict, "state_dict_4b_summary": check_summary}
