"""Which parameters decay, and the learning rate of every step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from one_peace.tasks.pretraining import AUDIO_TEXT, freeze_for_stage
from one_peace.training.optimizer import build_optimizer, decays, layer_of, learning_rate, set_learning_rate
from one_peace.training.recipe import OptimizerRecipe
from tiny_models import tiny_model


def test_vectors_cls_and_absolute_positions_do_not_decay() -> None:
    model = tiny_model()
    names = {id(p): name for name, p in model.named_parameters()}
    decaying, still = build_optimizer(model, OptimizerRecipe(weight_decay=0.07)).param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.07, 0.0)
    matrices = {names[id(p)] for p in still["params"] if p.ndim > 1}
    adapters, decoder = "encoder.adapters", "decoder.adapters"
    assert matrices == {
        *(f"{adapters}.{m}.cls" for m in ("text", "image", "audio")),
        *(f"{adapters}.{m}.positions.weight" for m in ("text", "image")),
        *(f"{decoder}.{m}.positions.weight" for m in ("text", "image", "audio")),
    }
    decayed = {names[id(p)] for p in decaying["params"]}
    published = {
        "encoder.adapters.text.tokens.weight",
        "encoder.adapters.audio.cls_position",
        "encoder.adapters.audio.positions.convs.0.weight",
        "encoder.adapters.image.patches.0.weight",
        "encoder.adapters.text.bias.tables.0",
        "encoder.fusion.blocks.0.attention.qkv.weight",
        "encoder.projections.text.weight",
        "decoder.adapters.text.mask_token",
    }
    assert published <= decayed, published - decayed
    assert all(model.get_parameter(name).ndim > 1 for name in decayed)
    assert not decays("encoder.logit_scale", model.encoder.logit_scale)


def test_every_trained_parameter_is_in_one_group() -> None:
    model = tiny_model()
    freeze_for_stage(model, AUDIO_TEXT)
    grouped = [id(p) for group in build_optimizer(model, OptimizerRecipe()).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(grouped) < len(list(model.parameters()))


def test_layer_decay_slows_the_lower_layers() -> None:
    model = tiny_model()
    recipe = OptimizerRecipe(layer_decay=0.5)
    optimizer = build_optimizer(model, recipe)
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, rate in {
        "encoder.adapters.text.tokens.weight": 0.125,
        "encoder.adapters.image.bias.tables.0": 0.25,
        "encoder.fusion.blocks.0.attention.qkv.weight": 0.25,
        "encoder.fusion.blocks.1.ffn.audio.down.bias": 0.5,
        "encoder.projections.text.weight": 1.0,
        "encoder.logit_scale": 1.0,
        "decoder.fusion.blocks.0.attention.qkv.weight": 1.0,
    }.items():
        assert rates[id(model.get_parameter(name))] == rate, name


def test_embeddings_of_roles_learn_as_slowly_as_the_adapters_that_they_belong_to() -> None:
    blocks = [f"encoder.fusion.blocks.{block}.attention.qkv.weight" for block in range(2)]
    names = (*blocks, "roles.text", "roles.second_image", "encoder.adapters.text.cls", "head.out.weight")
    assert [layer_of(name, 2) for name in names] == [1, 2, 0, 0, 0, 3]


def test_a_step_is_adamw_with_the_recipes_numbers() -> None:
    recipe = OptimizerRecipe(lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    layer = torch.nn.Linear(3, 2)
    start = layer.weight.detach().double()
    optimizer = build_optimizer(layer, recipe)
    first = second = torch.zeros_like(start)
    expected = start.clone()
    for step in (1, 2, 3):
        gradient = torch.full_like(layer.weight, 0.5 * step)
        layer.weight.grad = gradient.clone()
        layer.bias.grad = torch.zeros_like(layer.bias)
        optimizer.step()
        first = 0.8 * first + 0.2 * gradient.double()
        second = 0.9 * second + 0.1 * gradient.double() ** 2
        expected *= 1 - 0.01 * 0.1
        expected -= 0.01 * (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-6)
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_schedule_warms_up_and_falls_to_the_end() -> None:
    recipe = OptimizerRecipe(lr=1.0, min_lr=0.1, warmup_steps=10)
    rates = [learning_rate(step, 110, recipe) for step in range(111)]
    assert rates[9] == rates[10] == 1.0 == max(rates)
    assert rates[0] == pytest.approx(0.1 + 0.9 / 10)
    assert [round(b - a, 9) for a, b in zip(rates[:9], rates[1:10], strict=True)] == [0.09] * 9
    assert rates[60] == pytest.approx(0.55)  # half way: the mean of both ends
    assert rates[35] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[110] == pytest.approx(0.1)
    assert learning_rate(10_000, 110, recipe) == pytest.approx(0.1)


@given(steps=st.integers(1, 500), warmup=st.integers(0, 600), lr=st.floats(1e-5, 1), low=st.floats(0, 1e-5))
def test_rates_stay_between_their_ends(steps: int, warmup: int, lr: float, low: float) -> None:
    recipe = OptimizerRecipe(lr=lr, min_lr=low, warmup_steps=warmup)
    rates = [learning_rate(step, steps, recipe) for step in range(steps)]
    assert all(low * (1 - 1e-9) <= rate <= lr * (1 + 1e-9) for rate in rates)
    top = min(warmup, steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
