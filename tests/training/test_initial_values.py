"""A model starts alike on any number of processes, and none of them ever holds the whole of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from one_peace.checkpoints.native import open_folder
from one_peace.training.initial_values import empty_model, fill, fresh_values
from tiny_models import CONFIG, tiny_model
from training_runs import start
from warm_processes import finish

NAMES = [name for name, _ in empty_model(CONFIG).named_parameters()]


def test_two_processes_start_as_one_with_half_the_memory_each(tmp_path: Path) -> None:
    for folder, count in (("one", 0), ("two", 2)):
        finish(start(tmp_path / folder, "empty", ("steps=0", "batch_size=4"), count))
    one, two = (open_folder(tmp_path / folder / "model").tensors for folder in ("one", "two"))
    assert set(one) == set(two) == set(NAMES)
    assert not [name for name in NAMES if not torch.equal(one[name][0], two[name][0])]
    whole = sum(tensors[0].numel() for tensors in one.values())
    shares = [json.loads((tmp_path / "two" / f"share-{rank}.json").read_text()) for rank in (0, 1)]
    # logit_scale is on both
    assert sum(shares) == whole + 1 and max(shares) < 0.52 * whole


def test_a_value_depends_on_its_own_place_alone() -> None:
    config = dataclasses.replace(CONFIG, layers=3)
    names = [name for name, _ in empty_model(config).named_parameters()]
    every = dict(fresh_values(config, 5, names))
    assert set(every) == set(names)
    some = dict(fresh_values(dataclasses.replace(config, layers=2), 5, NAMES))
    assert all(torch.equal(value, every[name]) for name, value in some.items())
    weights = [every[f"encoder.fusion.blocks.{n}.attention.qkv.weight"] for n in range(3)]
    assert not any(torch.equal(weights[n], weights[n - 1]) for n in range(3))
    other = dict(fresh_values(config, 6, names))
    assert not torch.equal(other["encoder.adapters.text.tokens.weight"], every["encoder.adapters.text.tokens.weight"])


def test_values_are_spread_as_those_of_a_model_built_whole() -> None:
    built, filled = tiny_model(), empty_model(CONFIG).to_empty(device="cpu")
    fill(filled, fresh_values(CONFIG, 0, NAMES))
    expected = dict(built.named_parameters())
    for name, parameter in filled.named_parameters():
        ours, theirs = parameter.detach(), expected[name].detach()
        spread = theirs.std(correction=0)
        assert (ours.mean() - theirs.mean()).abs() <= 6 * spread / ours.numel() ** 0.5 + 1e-6, name
        if ours.numel() > 100:
            torch.testing.assert_close(ours.std(correction=0), spread, rtol=0.25, atol=1e-6, msg=name)
        else:  # constants, or too few to compare
            assert bool(ours.std(correction=0) < 1e-6) == bool(spread < 1e-6), name


def test_each_block_has_a_table_of_its_own_where_the_config_says_so() -> None:
    config = dataclasses.replace(CONFIG, per_layer_bias=True)
    model = empty_model(config).to_empty(device="cpu")
    fill(model, fresh_values(config, 0, [name for name, _ in model.named_parameters()]))
    assert all(table.eq(0).all() for table in model.encoder.adapters["text"].bias.tables)
