"""Checks of MiCo for `parity.py`: masks, losses, gradients, updates."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import golden_mico as golden
from one_peace.checkpoints.mico.names import to_native, to_official
from one_peace.checkpoints.name_table import Target
from one_peace.models.mico.model import MiCoModel
from one_peace.objectives.masked_words import hide_words
from one_peace.objectives.matching import negative_weights
from one_peace.tasks.mico.clips import SPECIAL
from one_peace.tasks.mico.pretraining import HiddenWords, MiCoBatch, mico_losses, parse_tasks
from one_peace.training.mico.recipe import ClipSource, MiCoRecipe
from one_peace.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from one_peace.training.recipe import OptimizerRecipe
from parity import Check, Comparison
from parity_files import Fixture
from parity_mico import facts, padded, pieces, settings

ADAM_EPS = 1e-6
TERMS = {
    "loss_itc": "contrast",
    "loss_itm": "matching",
    "loss_cap": "captioning",
    "loss_qa": "answering",
    "total_loss": "total",
}
MASKED = ("cap", "vcap", "acap", "ocap", "ans")
CLIPS = ClipSource("clips.csv", ("image",), parse_tasks("ret%tv"))  # of a recipe, which wants some
SCHEDULE = re.compile(r"lr_schedule_(?P<steps>\d+)_steps_warmup_(?P<share>[\d.]+)")


def part(target: Target, tensor: Tensor) -> Tensor:
    """The rows of one of our tensors that an official one has."""
    return tensor if target.part is None else tensor.chunk(len(to_official(target.name)))[target.part]


def loss_batch(fixture: Fixture, form: str, parts: set[str]) -> MiCoBatch:
    """The batch of 04 in the form of one caption per clip (`plain`) or of three."""
    texts, config = facts(fixture)["texts"], settings(fixture)
    hidden = {name: HiddenWords(fixture[f"mask.{name}.input_ids"], fixture[f"mask.{name}.labels"]) for name in MASKED}
    length, joint = config["max_caption_len"], config["max_omni_caption_len"]
    given: dict[str, dict[str, Tensor]] = {"video": {"frames": fixture["vision_pixels"]}}
    given |= {"audio": {"slices": fixture["audio_spectrograms"]}} if "audio" in parts else {}
    given |= {"depth": {"frames": fixture["depth_pixels"]}} if "depth" in parts else {}
    captions = {"caption": padded(texts["caps"], length)}
    words = {"caption": hidden["cap"]}
    if form != "plain":
        captions = {name: padded(texts[f"{name[0]}cap"], length) for name in ("vision", "audio")}
        captions["joint"] = padded(texts["ocap"], joint)
        words = {"vision": hidden["vcap"], "audio": hidden["acap"], "joint": hidden["ocap"]}
    subtitles, questions = padded(texts["sub"], config["max_subtitle_len"]), padded(texts["q"], length)
    return MiCoBatch(given, captions, words, subtitles, questions, hidden["ans"])


def check_losses(fixture: Fixture, compare: Comparison) -> None:
    """Every task string: its losses; gradients and updates where there are some; weights for negatives; features."""
    meta = facts(fixture)
    for key, expected in meta["losses"].items():
        form, task = ("27m", key.split(" ")[1]) if key.startswith("vast27m ") else ("plain", key)
        form, task = key.split(":") if ":" in key else (form, task)
        tasks = parse_tasks(task)
        model = golden.model(fixture.path.parent, matching_weight=meta["itm_ratio"])
        graded = key in meta["grad_norms"]
        drawn = forced(meta["negatives"], len(tasks) * max(len(one.tuples) for one in tasks))
        parts = {name for one in tasks for names in one.tuples for name in names}
        with torch.set_grad_enabled(graded):
            losses = mico_losses(model, loss_batch(fixture, form, parts), tasks, draw=lambda _, d=drawn: next(d))
        for name, value in expected.items():
            compare.loss(f"{key} {name}", losses[TERMS[name]], torch.tensor(value), 2e-6)  # divided by the temperature
        if graded:
            losses["total"].backward()
            check_gradients(compare, key, model, meta["grad_norms"][key])
            if (task, form) == (gradient_task(fixture), "plain"):
                for name, value in fixture.group("grad.").items():
                    compare.gradient(f"gradient of {name}", gradient(model, name), value)
                check_updates(fixture, compare, model)
    check_vectors(fixture, compare)


def gradient_task(fixture: Fixture) -> str:
    """The task whose full gradients the file has: the first one with gradients."""
    return next(iter(facts(fixture)["grad_norms"])).partition(":")[2]


def forced(negatives: dict[str, list[int]], times: int) -> Iterator[Tensor]:
    """The draws that the reference was given, tuple by tuple: conditions, then texts."""
    for _ in range(times):
        yield torch.tensor(negatives["condition"])
        yield torch.tensor(negatives["text"])


def gradient(model: MiCoModel, official: str) -> Tensor:
    target = to_native(official)
    assert isinstance(target, Target)
    found = model.get_parameter(target.name).grad
    assert found is not None, official
    return part(target, found)


# A norm in float32 depends on the order of its sum: of the million gradients of the words, in the fourth digit.
PER_NUMBER = 2e-10


def check_gradients(compare: Comparison, key: str, model: MiCoModel, norms: dict[str, float]) -> None:
    found = {name: gradient(model, name) for name in norms if name != "__global__"}
    ours = {name: one.norm() for name, one in found.items()}  # in float32, as there
    counts = {name: one.numel() for name, one in found.items()}
    every = [p.grad for p in model.parameters() if p.grad is not None]
    ours["__global__"] = torch.stack([one.norm() for one in every]).norm()
    counts["__global__"] = sum(one.numel() for one in every)
    for name, expected in norms.items():
        if expected < 1e-6 * norms["__global__"]:  # key biases change nothing: what is left is rounding
            compare.exact(f"{key} {name} is rounding", bool(ours[name] < 1e-6 * norms["__global__"]), True)
        else:
            tolerance = (2e-5 + PER_NUMBER * counts[name]) * expected + 1e-7 * norms["__global__"]
            compare.feature(f"{key} norm of {name}", ours[name], torch.tensor(expected), tolerance)


def check_updates(fixture: Fixture, compare: Comparison, model: MiCoModel) -> None:
    """Two updates with these gradients, in the published groups.

    The published AdamW adds its eps to the root before the correction of the bias, PyTorch's after it; they differ for
    gradients of the size of eps, so its formula stands here. Training uses PyTorch's (docs/differences.md).
    """
    recipe = facts(fixture)["optimizer"]
    run = recipe["run_cfg"]
    check_groups(recipe, compare, model)
    first, second = run["betas"]
    rates = {"basic": run["learning_rate"], "new": run["new_lr"], "visual": run["clip_lr"]}
    wanted = fixture.group("after_adamw.")
    compare.exact(
        "updated parameters have a group", {*wanted} - {n for g in recipe["groups"].values() for n in g}, set()
    )
    for group, names in recipe["groups"].items():
        kind, _, decay = group.partition(" ")
        rate, shrink = rates[kind], run["weight_decay"] if decay == "decay" else 0.0
        for name in set(names) & set(wanted):
            target = to_native(name)
            assert isinstance(target, Target)
            value, slope = part(target, model.get_parameter(target.name)).detach().clone(), gradient(model, name)
            mean, square = torch.zeros_like(value), torch.zeros_like(value)
            for step in (1, 2):
                mean = first * mean + (1 - first) * slope
                square = second * square + (1 - second) * slope**2
                size = rate * (1 - second**step) ** 0.5 / (1 - first**step)
                value = value - size * mean / (square.sqrt() + ADAM_EPS)
                value = value - rate * shrink * value
            # Of gradients near eps the update has the relative error, times the rate.
            near = slope.abs() < 100 * ADAM_EPS
            compare.feature(f"updated {name}", value[~near], wanted[name][~near], 2e-6)
            compare.feature(f"updated {name}, near eps", value[near], wanted[name][near], max(1e-5, 0.1 * rate))


def check_groups(recipe: dict[str, Any], compare: Comparison, model: MiCoModel) -> None:
    """Which parameters decay, and at which rate they learn, as training builds its optimizer."""
    run, named = recipe["run_cfg"], dict(model.named_parameters())
    settings = OptimizerRecipe(run["learning_rate"], weight_decay=run["weight_decay"], betas=run["betas"])
    ours = MiCoRecipe("mico-nano", {"clips": CLIPS}, 1, 2, settings, run["clip_lr"])
    optimizer = build_optimizer(model, settings, ours.groups())
    set_learning_rate(optimizer, run["learning_rate"])
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    rates = {"basic": run["learning_rate"], "visual": run["clip_lr"]}
    for group, names in recipe["groups"].items():
        kind, _, decay = group.partition(" ")
        for name in names:
            target = to_native(name)
            # the settings may switch off a table of frames, which is in no model then
            if isinstance(target, Target) and target.name in named and kind in rates:
                rate, decays = found[id(named[target.name])]
                compare.exact(f"rate of {name}", math.isclose(rate, rates[kind]), True)
                compare.exact(f"decay of {name}", decays, run["weight_decay"] if decay == "decay" else 0.0)


@torch.no_grad()
def check_vectors(fixture: Fixture, compare: Comparison) -> None:
    """Joint features, a joint memory, and the weights that negatives are drawn with."""
    model = golden.model(fixture.path.parent)
    batch = loss_batch(fixture, "plain", {"audio", "depth"})
    features = {
        {"video": "vision"}.get(name, name): model.encode(name, values) for name, values in batch.inputs.items()
    }
    assert batch.subtitles is not None
    pooled = {name: model.pool(name, values) for name, values in features.items()}
    features["subtitle"] = model.text(batch.subtitles, batch.subtitles != 0)
    pooled["subtitle"] = features["subtitle"][:, 0]
    texts = model.embed("text", {"tokens": batch.captions["caption"]})
    compare.feature("text feature", texts, fixture["feat.feat_t"])
    for name, expected in fixture.group("feat.feat_").items():
        if name != "t":
            compare.feature(f"feature {name}", model.project(members(name), pooled), expected)
    for name, expected in fixture.group("condition_").items():
        compare.feature(f"memory {name}", model.remember({m: features[m] for m in members(name)}), expected)
    for name in {name.split(".")[1] for name in fixture.tensors if name.startswith("negweights.")}:
        logits = texts @ model.project(members(name[1:]), pooled).t() / model.temperature
        compare.feature(f"weights {name}", negative_weights(logits), fixture[f"negweights.{name}.t2cond"])
        compare.feature(f"weights of {name}", negative_weights(logits.t()), fixture[f"negweights.{name}.cond2t"])


def members(letters: str) -> tuple[str, ...]:
    return parse_tasks(f"ret%t{letters}")[0].tuples[0]


def check_masker(fixture: Fixture, compare: Comparison) -> None:
    """Hidden words for seeds of Python's generator; the learning rate over time."""
    for key, curves in fixture.meta.items():
        if found := SCHEDULE.fullmatch(key):
            steps = int(found["steps"])
            for name, expected in curves.items():
                schedule = f"{name.removeprefix('warmup_')}-from-zero"
                recipe = OptimizerRecipe(1.0, 0.0, round(float(found["share"]) * steps), schedule=schedule)
                rates = [learning_rate(step, steps, recipe) for step in range(len(expected))]
                compare.feature(f"{key} {name}", torch.tensor(rates), torch.tensor(expected), 1e-6)
    words = range(pieces().mask_id + SPECIAL, pieces().vocab_size)  # that stand in for hidden ones
    for case in fixture.meta["token_masker"]:
        seed, ratio = case["python_random_seed"], case["mask_prob"]
        tokens = torch.tensor(case["tokens"])
        shown, labels = hide_words(tokens, ratio, random.Random(seed), mask_id=pieces().mask_id, words=words)
        compare.exact(f"shown, seed {seed}", shown.tolist(), case["masked"])
        compare.exact(f"labels, seed {seed}", labels.tolist(), case["labels"])


CHECKS: dict[str, Check] = {
    "04_losses": check_losses,
    "04_masker_sched": check_masker,
}
