"""Checks of MiCo for `parity.py`: features, texts, matching, losses and gradients, generation, checkpoints.

Sizes, texts and settings are read from the tensors and the manifest beside them. The vocabulary of word pieces is
looked for in $ONE_PEACE_VOCAB and beside the reference numbers of this repository.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import golden_mico as golden
import parity_mico_inputs
from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.mico_names import current_name, tied_to, to_native, to_official
from one_peace.checkpoints.mico_official import fit_tables, read_mico
from one_peace.checkpoints.name_table import Target
from one_peace.checkpoints.names import Kind
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.pieces import sort_pieces
from one_peace.generation.beam import beam_search
from one_peace.modalities.wordpiece import VOCABULARY, WordPieces
from one_peace.models.mico.audio_encoders import Ast, Beats
from one_peace.models.mico.config import AstConfig, BeatsConfig, TowerConfig
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import preset
from one_peace.models.mico.tower import Tower
from one_peace.models.mico.writing import (
    CAPTION_PENALTY,
    TextDecoder,
    search_settings,
    write_answers,
)
from one_peace.objectives.masked_words import hide_words
from one_peace.objectives.matching import negative_weights
from one_peace.tasks.omni.pretraining import HiddenWords, OmniBatch, format_tasks, omni_losses, parse_tasks
from one_peace.training.omni.recipe import ClipSource, OmniRecipe
from one_peace.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from one_peace.training.recipe import OptimizerRecipe
from parity import Check, Comparison, Fixture

WORDS = range(106, 30522)  # that stand in for hidden ones
TERMS = {
    "loss_itc": "contrast",
    "loss_itm": "matching",
    "loss_cap": "captioning",
    "loss_qa": "answering",
    "total_loss": "total",
}
ADAM_EPS = 1e-6
OURS = Path(__file__).parent / "golden" / "mico"


@lru_cache(maxsize=1)
def pieces() -> WordPieces:
    """The published vocabulary."""
    places = [Path(os.environ["ONE_PEACE_VOCAB"])] if "ONE_PEACE_VOCAB" in os.environ else []
    for place in [*places, OURS]:
        if (place / VOCABULARY).is_file():
            return WordPieces.from_vocabulary(place / VOCABULARY)
    raise FileNotFoundError(f"no {VOCABULARY}; set ONE_PEACE_VOCAB to a folder that has it")


def padded(texts: list[str], length: int) -> Tensor:
    """Token ids (texts, length), as the published tokenizer pads them."""
    rows = [pieces().encode(text, length) for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def facts(fixture: Fixture) -> Any:
    """What the manifest says about a file."""
    return golden.manifest(fixture.path.parent)["files"][fixture.path.with_suffix(".safetensors").name]["meta"]


def settings(fixture: Fixture) -> dict[str, Any]:
    found: dict[str, Any] = golden.manifest(fixture.path.parent)["config"]
    return found


def part(target: Target, tensor: Tensor) -> Tensor:
    """The rows of one of our tensors that an official one has."""
    return tensor if target.part is None else tensor.chunk(len(to_official(target.name)))[target.part]


@torch.no_grad()
def check_features(fixture: Fixture, compare: Comparison) -> None:
    """`CASE.input` -> tokens, pooled, feature, memories."""
    model = golden.model(fixture.path.parent)
    for case in sorted({name.partition(".")[0] for name in fixture.tensors}):
        modality = {"audio": "audio", "depth": "depth", "normal": "normals"}.get(case.split("_")[0], "video")
        branch = {"video": "vision", "normals": "depth"}.get(modality, modality)
        features = model.encode(modality, inputs(modality, fixture[f"{case}.input"]))
        compare.feature(f"{case} tokens", features, fixture[f"{case}.tokens"])
        pooled = model.pool(branch, features)
        compare.feature(f"{case} pooled", pooled, fixture[f"{case}.pooled"])
        compare.feature(f"{case} feature", model.project((branch,), {branch: pooled}), fixture[f"{case}.feat"])
        compare.feature(
            f"{case} embed", model.embed(modality, inputs(modality, fixture[f"{case}.input"])), fixture[f"{case}.feat"]
        )
        for pool in (False, True):
            model.config = dataclasses.replace(model.config, pool_frames=pool)
            memory = model.remember({branch: features})
            compare.feature(f"{case} memory {pool}", memory, fixture[f"{case}.condition.pool_video_{pool}"])


def large(expected: Tensor) -> float:
    """The tolerance of numbers that no norm keeps small: 1e-5, or two parts in a million of the largest."""
    return max(1e-5, 2e-6 * expected.abs().max().item())


def inputs(modality: str, values: Tensor) -> dict[str, Tensor]:
    return {"slices" if modality == "audio" else "frames": values}


@torch.no_grad()
def check_tower(fixture: Fixture, compare: Comparison) -> None:
    """Patches, each block, the features after the last norm, and the projection that MiCo does not use."""
    tower = golden.model(fixture.path.parent).tower
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out)) for block in tower.blocks]
    tokens = tower(fixture["input"])
    for hook in hooks:
        hook.remove()
    compare.feature("patches", tower.embed_patches(fixture["input"]), fixture["patch_embed"])
    for number, output in enumerate(outputs):
        expected = fixture[f"block{number}"]
        compare.feature(f"block {number}", output, expected, large(expected))
    compare.feature("tokens", tokens, fixture["tokens"])
    compare.feature("class token", tower(fixture["input"], cls_only=True)[:, 0], fixture["tokens"][:, 0])


@torch.no_grad()
def check_text(fixture: Fixture, compare: Comparison) -> None:
    """Hidden states with padding, features, logits of words, the memory of subtitles; token ids of the texts."""
    model = golden.model(fixture.path.parent)
    for case in ("caption", "subtitle"):
        tokens, mask = fixture[f"{case}.input_ids"], fixture[f"{case}.attention_mask"]
        hidden = model.text(tokens, mask)
        compare.feature(f"{case} hidden", hidden, fixture[f"{case}.hidden"])
        texts = facts(fixture).get(f"{case}s")
        if texts:
            compare.exact(f"{case} ids", padded(texts, tokens.shape[1]), tokens)
        if case == "subtitle":
            vector = model.project(("subtitle",), {"subtitle": hidden[:, 0]})
            compare.feature("subtitle feature", vector, fixture["subtitle.feat_s"])
            compare.feature("subtitle memory", model.remember({"subtitle": hidden}), fixture["subtitle.condition"])
            continue
        compare.feature("caption feature", model.embed("text", {"tokens": tokens}), fixture["caption.feat_t"])
        logits = model.text.predict(hidden)
        for name, expected in fixture.group("caption.lm_logits_cols_").items():
            first, last = map(int, name.split("_"))
            compare.feature("logits", logits[..., first:last], expected, large(expected))
        compare.gradient("log of the sum", logits.logsumexp(-1), fixture["caption.lm_logsumexp"])
        compare.exact("most probable words", logits.argmax(-1), fixture["caption.lm_argmax"])


def check_tokenizer(fixture: Fixture, compare: Comparison) -> None:
    """Ids, masks and texts read back."""
    for case in fixture.meta["cases"]:
        ids = padded([case["text"]], case["max_length"])[0]
        compare.exact(f"{case['text'][:30]!r}", ids.tolist(), case["input_ids"])
        compare.exact(f"mask of {case['text'][:30]!r}", (ids != 0).long().tolist(), case["attention_mask"])
        compare.exact(f"decoded {case['text'][:30]!r}", pieces().decode(ids.tolist()), case["decoded_skip_special"])


@torch.no_grad()
def check_match(fixture: Fixture, compare: Comparison) -> None:
    """Captions of 02 against videos of 01: cosines, matching logits and scores, several texts with one memory."""
    folder = fixture.path.parent
    model = golden.model(folder)
    tokens = golden.tensors(folder / "02_text.safetensors")["caption.input_ids"]
    frames = golden.tensors(folder / "01_features.safetensors")["video.input"]
    texts, features = model.embed("text", {"tokens": tokens}), model.encode("video", {"frames": frames})
    compare.feature("cosines", texts @ model.embed("video", {"frames": frames}).t(), fixture["sim_t2v"])
    memory = model.text.project_memory(model.remember({"vision": features}))
    rows = tokens.repeat(len(frames), 1)  # each video with all texts, in turn
    logits = model.match(rows, memory).view(len(frames), len(tokens), 2).transpose(0, 1)
    compare.feature("logits", logits, fixture["itm_logits"])
    compare.feature("scores", logits.softmax(-1)[..., 1], fixture["itm_scores"])
    first = [(keys[:1], values[:1]) for keys, values in memory]
    compare.feature("hidden", model.text(tokens, tokens != 0, first), fixture["fused_hidden_video0"])
    alone = model.match(tokens, first).softmax(-1)[:, 1]
    compare.feature("scores of one memory", alone, fixture["itm_scores_broadcast_video0"])


def loss_batch(fixture: Fixture, form: str, parts: set[str]) -> OmniBatch:
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
    return OmniBatch(given, captions, words, subtitles, questions, hidden["ans"])


MASKED = ("cap", "vcap", "acap", "ocap", "ans")


def check_losses(fixture: Fixture, compare: Comparison) -> None:
    """Every task string: its losses; gradients and updates where there are some; weights for negatives; features."""
    meta = facts(fixture)
    for key, expected in meta["losses"].items():
        form, task = ("27m", key.split(" ")[1]) if key.startswith("vast27m ") else ("plain", key)
        form, task = key.split(":") if ":" in key else (form, task)
        tasks = parse_tasks(task)
        compare.exact(f"{key} as text", format_tasks(tasks), task)
        model = golden.model(fixture.path.parent, matching_weight=meta["itm_ratio"])
        graded = key in meta["grad_norms"]
        drawn = forced(meta["negatives"], len(tasks) * max(len(one.tuples) for one in tasks))
        parts = {name for one in tasks for names in one.tuples for name in names}
        with torch.set_grad_enabled(graded):
            losses = omni_losses(model, loss_batch(fixture, form, parts), tasks, draw=lambda _, d=drawn: next(d))
        for name, value in expected.items():
            compare.gradient(f"{key} {name}", losses[TERMS[name]], torch.tensor(value))
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


def check_gradients(compare: Comparison, key: str, model: MiCoModel, norms: dict[str, float]) -> None:
    whole = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    for name, expected in norms.items():
        ours = whole if name == "__global__" else gradient(model, name).norm()  # in float32, as there
        if expected < 1e-6 * norms["__global__"]:  # key biases change nothing: what is left is rounding
            compare.exact(f"{key} {name} is rounding", bool(ours < 1e-6 * norms["__global__"]), True)
        else:
            tolerance = 2e-5 * expected + 1e-7 * norms["__global__"]
            compare.feature(f"{key} norm of {name}", ours, torch.tensor(expected), tolerance)


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
            # of gradients near eps the update has the relative error, times the rate
            compare.feature(f"updated {name}", value, wanted[name], max(1e-5, 0.1 * rate))


def check_groups(recipe: dict[str, Any], compare: Comparison, model: MiCoModel) -> None:
    """Which parameters decay, and at which rate they learn, as training builds its optimizer."""
    run, named = recipe["run_cfg"], dict(model.named_parameters())
    settings = OptimizerRecipe(run["learning_rate"], weight_decay=run["weight_decay"], betas=run["betas"])
    ours = OmniRecipe("mico-nano", {"clips": CLIPS}, 1, 2, settings, run["clip_lr"])
    optimizer = build_optimizer(model, settings, ours.groups())
    set_learning_rate(optimizer, run["learning_rate"])
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    rates = {"basic": run["learning_rate"], "visual": run["clip_lr"]}
    for group, names in recipe["groups"].items():
        kind, _, decay = group.partition(" ")
        for name in names:
            target = to_native(name)
            if isinstance(target, Target) and kind in rates:
                rate, decays = found[id(named[target.name])]
                compare.exact(f"rate of {name}", math.isclose(rate, rates[kind]), True)
                compare.exact(f"decay of {name}", decays, run["weight_decay"] if decay == "decay" else 0.0)


CLIPS = ClipSource("clips.csv", ("image",), parse_tasks("ret%tv"))  # of a recipe, which wants some


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


SCHEDULE = re.compile(r"lr_schedule_(?P<steps>\d+)_steps_warmup_(?P<share>[\d.]+)")


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
    for case in fixture.meta["token_masker"]:
        seed, ratio = case["python_random_seed"], case["mask_prob"]
        tokens = torch.tensor(case["tokens"])
        shown, labels = hide_words(tokens, ratio, random.Random(seed), mask_id=pieces().mask_id, words=WORDS)
        compare.exact(f"shown, seed {seed}", shown.tolist(), case["masked"])
        compare.exact(f"labels, seed {seed}", labels.tolist(), case["labels"])


@torch.no_grad()
def check_generation(fixture: Fixture, compare: Comparison) -> None:
    """Captions by greedy and beam search, answers, the first step of sampling: token by token."""
    meta, config = facts(fixture), settings(fixture)
    first, last, mask = pieces().first_id, pieces().last_id, pieces().mask_id
    for form in sorted({name.partition(".")[0] for name in fixture.tensors if name.endswith(".sequences")}):
        model = golden.model(fixture.path.parent)
        features = model.encode("video", {"frames": fixture["pixels"]})
        compare.feature("memory", model.remember({"vision": features}), fixture["condition"])
        if form == "sep_bias":
            model.text.prediction.bias[last] = fixture["sep_bias.sep_bias_value"]
        memory = model.text.project_memory(fixture["condition"])
        for name in [name for name in fixture.tensors if name.startswith(form) and name.endswith(".sequences")]:
            kind, expected = name.split(".")[1], fixture[name]
            beams = 1 if kind == "greedy" else config["beam_size"]
            how = search_settings(
                last, config["max_caption_len"], beams, 1.0 if kind == "beam_lp1" else CAPTION_PENALTY
            )
            start = torch.full((len(expected), 1), first)
            best = [found[0] for found in beam_search(TextDecoder(model.text, memory, mask), start, how)]
            rows = [[first, *one.tokens] for one in best]
            compare.exact(name, [row + [0] * (expected.shape[1] - len(row)) for row in rows], expected.tolist())
            compare.exact(f"{name} as text", [pieces().decode(row) for row in rows], meta[f"{form}.{kind}.captions"])
            if f"{form}.{kind}.sequence_scores" in fixture.tensors:
                scores = torch.tensor([one.score for one in best])
                compare.feature(f"{name} scores", scores, fixture[f"{form}.{kind}.sequence_scores"])
        if f"{form}.qa" in meta:
            asked = meta[f"{form}.qa"]
            questions = padded([q for several in asked["questions"] for q in several], config["max_caption_len"])
            owner = torch.tensor([n for n, several in enumerate(asked["questions"]) for _ in several])
            repeated = [(keys[owner], values[owner]) for keys, values in memory]
            found = write_answers(model.text, repeated, questions, pieces(), beams=config["beam_size"])
            compare.exact(f"{form} answers", [pieces().decode(one[0].tokens) for one in found], asked["answers"])
    model = golden.model(fixture.path.parent)
    memory = model.text.project_memory(fixture["condition"])
    logits = TextDecoder(model.text, memory, mask).step(fixture["captioner.first_step_input_ids"][:, :1])
    best_ten = logits.topk(fixture["captioner.first_step_top10_ids"].shape[1])
    compare.exact("first words", best_ten.indices, fixture["captioner.first_step_top10_ids"])
    compare.feature("their shares", best_ten.values.softmax(-1), fixture["captioner.first_step_top10_probs"])
    asking = torch.cat([torch.full((len(logits), 1), first), torch.full((len(logits), 1), mask)], dim=1)
    compare.exact("what asks for a word", asking, fixture["captioner.first_step_input_ids"])


def check_renames(fixture: Fixture, compare: Comparison) -> None:
    """Names of older checkpoints, and tables in the sizes of the settings."""
    config = facts(fixture)["config"]
    given, wanted = fixture.group("in."), fixture.group("out.")
    names = {name: current_name(name) for name in given}
    compare.exact("names", sorted(names.values()), sorted(wanted))
    tensors = {}
    for name, tensor in given.items():
        target = to_native(names[name])
        if isinstance(target, Target):
            tensors[target.name] = [tensor]
        else:  # cast to float32, as everything is
            compare.feature(name, tensor.float(), wanted[names[name]].float())
    patch = given[next(name for name in given if name.endswith("patch_embed.proj.weight"))].shape[-1]
    sizes = {"image_size": config["vision_resolution"], "patch": patch}
    frames = {branch: config[f"max_{branch}_sample_num"] for branch in ("vision", "audio")}
    fitted = fit_tables(tensors, {"tower": sizes, "frames": frames})
    for name, expected in wanted.items():
        target = to_native(name)
        if isinstance(target, Target):
            compare.feature(name, fitted[target.name][0], expected)


@torch.no_grad()
def check_eva02(fixture: Fixture, compare: Comparison) -> None:
    """A tower with rotary positions, by the official names; its angles."""
    config = facts(fixture)["vision_cfg"]
    state = {f"vision_encoder.visual.{name}": tensor for name, tensor in fixture.group("w.").items()}
    weights = sort_pieces(state, to_native, lambda native: len(to_official(native, eva02=True)))
    compare.exact("unknown names", weights.unknown, ())
    tower = Tower(
        TowerConfig(
            width=config["width"],
            layers=config["layers"],
            heads=config["width"] // config["head_width"],
            ffn_width=int(config["width"] * config["mlp_ratio"]),
            patch=config["patch_size"],
            image_size=fixture["input"].shape[-1],
            kind="eva02" if config.get("rope") else "post_norm" if config.get("postnorm") else "eva01",
            rotary_grid=config.get("pt_hw_seq_len", 16),
        )
    )
    fill(tower, {name.removeprefix("tower."): parts for name, parts in weights.tensors.items()})
    compare.feature("tokens", tower.eval()(fixture["input"]), fixture["tokens"])
    angles = tower.rotary(torch.device("cpu"))
    if angles is not None:
        for name, table in zip(("cos", "sin"), angles, strict=True):
            compare.feature(name, table[1:], fixture[f"rope.freqs_{name}"])


def fill(module: torch.nn.Module, tensors: dict[str, list[Tensor]]) -> None:
    report = assign_tensors(module, tensors)
    assert not report.missing, report.missing


@torch.no_grad()
def check_audio_encoders(fixture: Fixture, compare: Comparison) -> None:
    """BEATs and AST of the captioners, by the official names."""
    meta, slices = facts(fixture), fixture["spectrogram"]
    beats, ast = meta["beats"], meta["ast"]
    modules: dict[str, Beats | Ast] = {
        "beats": Beats(
            BeatsConfig(
                width=beats["encoder_embed_dim"],
                layers=beats["encoder_layers"],
                heads=beats["encoder_attention_heads"],
                ffn_width=beats["encoder_ffn_embed_dim"],
                patch_width=beats["embed_dim"],
                position_kernel=beats["conv_pos"],
                position_groups=beats["conv_pos_groups"],
                buckets=beats["num_buckets"],
                max_distance=beats["max_distance"],
            )
        ),
        "ast": Ast(
            AstConfig(
                width=ast["hidden_size"],
                layers=ast["num_hidden_layers"],
                heads=ast["num_attention_heads"],
                ffn_width=ast["intermediate_size"],
                mel_bins=ast["audio_melbins"],
                frames=ast["audio_target_length"],
            )
        ),
    }
    for name, module in modules.items():
        prefix = "audio_encoder." if name == "beats" else ""
        state = {prefix + key: tensor for key, tensor in fixture.group(f"{name}.w.").items()}
        weights = sort_pieces(state, to_native, lambda native: len(to_official(native)))
        compare.exact(f"{name} unknown names", weights.unknown, ())
        fill(module, {key.removeprefix(f"{name}."): parts for key, parts in weights.tensors.items()})
        features = module.eval()(slices.flatten(0, 1)).unflatten(0, slices.shape[:2])
        compare.feature(f"{name} tokens", features, fixture[f"{name}.tokens"])
        compare.feature(f"{name} pooled", module.pool(features), fixture[f"{name}.pooled"])
    beats_module = modules["beats"]
    assert isinstance(beats_module, Beats)
    bias = fixture["beats.pos_bias_layer0"]
    compare.feature("position bias", beats_module.position_bias(bias.shape[-1]), bias)


def check_official_size(fixture: Fixture, compare: Comparison) -> None:
    """Names and shapes of the published model, on no memory; the number of its parameters."""
    values = json.loads(fixture.path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = MiCoModel(preset("mico-giant"))
    named: dict[str, tuple[str, list[int]]] = {}
    for native, parameter in model.named_parameters():
        for number, official in enumerate(names := to_official(native)):
            rows = parameter.shape[0] // len(names) if parameter.ndim else None
            shape = list(parameter.shape) if len(names) == 1 else [rows, *parameter.shape[1:]]
            named[official] = (f"{native} {number}", shape)
    listed = {entry["name"]: entry["shape"] for entry in values["entries"]}
    unread = {name for name in listed if isinstance(to_native(name), Kind) or tied_to(name)}
    compare.exact("names", sorted(named), sorted(set(listed) - unread))
    for name, (_, shape) in named.items():
        compare.exact(f"shape of {name}", shape, listed.get(name))
    counts = {entry["name"]: entry["numel"] for entry in values["entries"] if entry.get("parameter")}
    ours = sum(parameter.numel() for parameter in model.parameters())
    read = sum(number for name, number in counts.items() if name not in unread)
    compare.exact("parameters", ours, read)


def check_weights(fixture: Fixture, compare: Comparison) -> None:
    """The small model as an official checkpoint: read, converted to our folder and back, bit for bit."""
    folder = fixture.path.parent
    listed = golden.manifest(folder)["state_dict_keys"]
    state = golden.state_dict(folder)
    compare.exact("names of the state dict", sorted(set(state)), sorted(name for name, _, _ in listed if name in state))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        official = golden.write_official(folder, place / "official")
        checkpoint = read_mico(official)
        compare.exact("unknown names", checkpoint.unknown, ())
        convert(official, place / "native")
        convert(place / "native", place / "again")
        before = load_pickle(official / "ckpt" / "model_step_7.pt")
        after = load_pickle(place / "again" / "ckpt" / "model_step_7.pt")
        compare.exact("names and their order", list(after), list(before))
        for name, tensor in before.items():
            compare.exact(name, after[name].dtype, tensor.dtype)
            compare.exact(name, after[name], tensor)


def with_manifest(check: Check) -> Check:
    """A check whose facts lie in the manifest, where there is no JSON of the fixture's own."""

    def run(fixture: Fixture, compare: Comparison) -> None:
        meta = fixture.meta or facts(fixture)
        check(Fixture(fixture.path, meta, fixture.tensors), compare)

    return run


CHECKS: dict[str, Check] = {
    "01_features": check_features,
    "01b_vit_internals": check_tower,
    "02_text": check_text,
    "02_tokenizer": check_tokenizer,
    "03_match": check_match,
    "04_losses": check_losses,
    "04_masker_sched": check_masker,
    "05_generation": check_generation,
    **{name: with_manifest(check) for name, check in parity_mico_inputs.CHECKS.items()},
    "07_checkpoint": check_renames,
    "08_eva02_tower": check_eva02,
    "09_captioner_audio_encoders": check_audio_encoders,
    "state_dict_vitg": check_official_size,
    "weights_word_embeddings": check_weights,
}
