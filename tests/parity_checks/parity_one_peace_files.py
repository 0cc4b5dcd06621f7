"""The ONE-PEACE checks of `parity.py` for files: a container as it is published, and names of the vision branch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.one_peace.names import from_vision, to_native
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.checkpoints.pickles import load_pickle
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from parity import Check, Comparison
from parity_files import Fixture


def check_container(fixture: Fixture, compare: Comparison) -> None:
    """Every tensor of a pretraining checkpoint is known and has a place; to our folder and back, bit for bit."""
    published = load_pickle(fixture.path)
    checkpoint = read_official(fixture.path)
    compare.exact("unknown names", checkpoint.unknown, ())
    config = OnePeaceConfig.from_dict(checkpoint.config)
    told = published["cfg"]["model"]["encoder"]
    compare.exact("layers", config.layers, told["layers"])
    compare.exact("sizes", [config.width, config.ffn_width, config.heads], sizes_of(told))
    with torch.device("meta"):
        model = OnePeaceForPretraining(config)
    report = assign_tensors(model, checkpoint.tensors)
    compare.exact("parameters without a tensor", list(report.missing), [])
    with tempfile.TemporaryDirectory() as folder:
        native, again = Path(folder) / "native", Path(folder) / "again.pt"
        convert(fixture.path, native)
        convert(native, again)
        state = load_pickle(again)["model"]
        compare.exact("names and their order", list(state), list(published["model"]))
        for name, tensor in published["model"].items():
            compare.exact(f"dtype of {name}", state[name].dtype, tensor.dtype)
            compare.exact(name, state[name], tensor)


def sizes_of(encoder: dict[str, int]) -> list[int]:
    return [encoder["embed_dim"], encoder["ffn_embed_dim"], encoder["attention_heads"]]


def check_vision_names(fixture: Fixture, compare: Comparison) -> None:
    """What the published conversion keeps for vision, and what its loader finds missing and unexpected then."""
    converted, weights = fixture.group("converted."), fixture.group("weights.")
    facts = fixture.meta
    shapes = {name: shape for name, shape in facts["converted_keys"].items() if place(name) is not Kind.BUFFER}
    compare.exact("converted names", shapes, {name: list(tensor.shape) for name, tensor in converted.items()})
    # Ours have one name for what the published classifier and its source call differently.
    missing = {place(name) for name in facts["missing"]} - {Kind.BUFFER}
    compare.exact("missing", missing, {*map(place, weights)} - {*map(place, converted)})
    compare.exact("unexpected", {*facts["unexpected"]}, facts["converted_keys"].keys() - weights - {*facts["missing"]})
    compare.exact("unknown", [name for name in (*facts["converted_keys"], *weights) if place(name) is None], [])


def place(name: str) -> Target | Kind | None:
    """Where a tensor of the vision branch goes here."""
    return to_native(from_vision(name))


CHECKS: dict[str, Check] = {"fixture_x_checkpoint": check_container}
