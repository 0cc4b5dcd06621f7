"""The OFA check of `parity.py` for losses and their gradients."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import golden_ofa
from one_peace.checkpoints.name_table import Target
from one_peace.checkpoints.ofa.names import to_native, to_official
from one_peace.generation.constraints import Trie
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.model import OfaModel
from one_peace.objectives.sequence import (
    SequenceLoss,
    SequenceLossSettings,
    divergence,
    range_mask,
    sequence_loss,
    token_loss,
)
from parity import Check, Comparison
from parity_files import Fixture

SMOOTHING = 0.1  # of every case whose name gives none
LOG_END = 0.75  # likewise
LATER = 10**6  # an update after which nothing begins
KINDS = {  # what a case is trained on, by a word of its name: beginnings of the names of its inputs
    "trie": "trie_",
    "image_gen": "code_",
}


def settings_of(name: str) -> tuple[SequenceLossSettings, int]:
    """The settings that a case's name says, and the update it is in."""

    def number(pattern: str, default: float) -> float:
        found = re.search(pattern + r"_?([\d.]+\d|\d)", name)
        return float(found[1]) if found else default

    waits = "not_yet" in name
    settings = SequenceLossSettings(
        smoothing=number(r"(?:_ls)", SMOOTHING),
        drop_worst=number(r"worst", 0.2 if waits else 0.0),
        drop_worst_after=LATER if waits else 0,
        drop_best=number(r"drop_best", 0.0),
        drop_best_after=LATER,  # no case is past it
        encourage=number(r"log_end", LOG_END) if name.startswith("el_") else None,
        consistency=number(r"rdrop_alpha", 2.0 if "rdrop" in name else 0.0),
        skip_first=int(number(r"ignore_prefix", 0)),
        skip_end="ignore_eos" in name,
    )
    return settings, 1


def model_gradients(
    compare: Comparison, name: str, model: OfaModel, case: dict[str, Any], grads: dict[str, Tensor]
) -> None:
    """Norms of all gradients, and some gradients whole, under their official names."""
    ours = {native: parameter.grad for native, parameter in model.named_parameters()}
    for official, theirs in grads.items():
        gradient = _part(official, ours[_native(official)])
        compare.feature(f"{name}: gradient of {official}", gradient, theirs, 3e-5 * theirs.abs().max().item() + 3e-6)
    for official, norm in case["grad_norms"].items():
        gradient = ours[_native(official)]
        if gradient is None:
            compare.exact(f"{name}: {official} has a gradient", False, norm > 1e-3)
            continue
        close_enough(compare, f"{name}: norm of {official}", _part(official, gradient).norm(), norm, 3e-5, 1e-4)
    for official in case["no_grad_params"]:
        gradient = ours[_native(official)]
        compare.exact(f"{name}: no gradient of {official}", gradient is None or not bool(gradient.any()), True)
    total = torch.stack([g.norm() for g in ours.values() if g is not None]).norm()
    close_enough(compare, f"{name}: norm of all", total, case["total_grad_norm"], 1e-5)


def _native(official: str) -> str:
    target = to_native(official)
    assert isinstance(target, Target), official
    return target.name


def _part(official: str, tensor: Tensor) -> Tensor:
    """The rows of one of our tensors that the official one is."""
    names = to_official(_native(official))
    return tensor.chunk(len(names))[names.index(official)]


def exactly(values: float | list[float]) -> Tensor:
    """Numbers of a JSON file as they stand there, float64."""
    return torch.tensor(values, dtype=torch.float64)


def close_enough(
    compare: Comparison, name: str, ours: Tensor, theirs: float, tolerance: float, least: float = 0.0
) -> None:
    """At most so much relative, or `least` absolute."""
    compare.feature(name, ours.detach().double(), exactly(theirs), tolerance * abs(theirs) + least)


def check_losses(fixture: Fixture, compare: Comparison) -> None:
    """Every case through the model, those with gradients backwards, too; then the functions alone."""
    folder = fixture.path.parent
    source = load_file(folder / "loss_inputs.safetensors")
    all_grads = load_file(folder / "loss_grads.safetensors")
    words = golden_ofa.manifest(folder)["vocab"]
    codes = words["code0"], words["code0"] + words["n_code"]
    graded = {name for name, case in fixture.meta["cases"].items() if "grad_norms" in case}
    answers = Trie(fixture.meta["trie_answers"], EOS_ID)
    compare_masks(compare, answers, source["trie_target"], source["trie_constraint_masks"])
    compare.exact("cases with gradients", {name.partition("/grad/")[0] for name in all_grads}, graded)
    for name, case in fixture.meta["cases"].items():
        if name == "function_level":
            check_functions(compare, case, source)
        elif name == "pretrain_v1_v2":
            check_pair(compare, case, golden_ofa.model(folder), source, codes)
        elif name.startswith("el_stub"):
            settings, update = settings_of(name)
            loss = sequence_loss(
                source["el_stub_logits"], source["target"], settings, pad=PAD_ID, end=EOS_ID, update=update
            )
            compare_case(compare, name, loss, case)
        else:
            model = golden_ofa.model(folder).requires_grad_("grad_norms" in case)
            model.train("train_mode_bn" in name)
            loss = case_loss(model, name, source, codes)
            compare_case(compare, name, loss, case)
            targets = source[f"{kind_of(name)}target"]
            compare.exact(f"{name}: tokens of targets", float((targets != PAD_ID).sum()), case["ntokens"])
            for statistic in ("mean", "var"):  # what training has left in the first batch norm
                if values := case.get(f"bn1_running_{statistic}_after"):
                    state = model.get_buffer(f"{_native('encoder.embed_images.bn1.running_' + statistic)}")
                    compare.feature(f"{name}: running {statistic}", state[: len(values)], torch.tensor(values))
            if "grad_norms" in case:
                loss.total.backward()
                prefix = f"{name}/grad/"
                grads = {n.removeprefix(prefix): g for n, g in all_grads.items() if n.startswith(prefix)}
                model_gradients(compare, name, model, case, grads)


def compare_masks(compare: Comparison, answers: Trie, target: Tensor, theirs: Tensor) -> None:
    """What the given answers allow at each place of targets (rows, length), of which padding is none."""
    for place in range(target.shape[1]):
        rows = target[:, place] != PAD_ID
        ours = answers.allowed(target[rows, :place], torch.zeros_like(target[rows, 0]), theirs.shape[2])
        compare.exact(f"allowed at {place}", ours, theirs[rows, place].bool())


def kind_of(name: str) -> str:
    """The beginning of the names of a case's inputs."""
    return next((prefix for word, prefix in KINDS.items() if word in name), "")


def case_loss(model: OfaModel, name: str, source: dict[str, Tensor], codes: tuple[int, int]) -> SequenceLoss:
    """A case's loss by the model."""
    settings, update = settings_of(name)
    kind = kind_of(name)
    previous, target = source[f"{kind}prev_output_tokens"], source[f"{kind}target"]
    drawing = kind == "code_"
    pictures = (None, None) if drawing else (source["patch_images"], source["patch_masks"])
    rows = torch.ones(len(target), dtype=torch.bool) if drawing else None
    logits = model(source["src_tokens"], previous, *pictures, codes=rows)
    return sequence_loss(
        logits,
        target,
        settings,
        pad=PAD_ID,
        end=EOS_ID,
        allowed=source["trie_constraint_masks"] if kind == "trie_" else None,
        token_range=codes if drawing else None,
        confidence=torch.tensor([2.0, 1.0, 0.6]) if name == "conf_2" else None,
        update=update,
    )


def compare_case(compare: Comparison, name: str, loss: SequenceLoss, case: dict[str, Any]) -> None:
    # log(1 - p) of the encouraging loss loses digits where p is nearly one, in the published code as in ours.
    encouraged = name.startswith("el_")
    # Its terms cancel, too: what they add up to says nothing of how large they were.
    tolerance = (1e-5 if encouraged else 2e-6) * max(abs(case["loss"]), abs(case["nll_loss"]))
    close_enough(compare, f"{name}: loss", loss.total, case["loss"], 0.0, tolerance + 1e-5 * encouraged)
    close_enough(compare, f"{name}: nll", loss.nll, case["nll_loss"], 2e-6)
    compare.exact(f"{name}: tokens", float(loss.tokens), case["sample_size"])


def check_pair(
    compare: Comparison, case: dict[str, Any], model: OfaModel, source: dict[str, Tensor], codes: tuple[int, int]
) -> None:
    """The two batches of a pretraining update: each loss by its own number of tokens."""
    settings = SequenceLossSettings()
    written = source["mixed_target"][:, 0]
    mixed = (codes[0] <= written) & (written < codes[1])  # of the second batch: rows of codes, which have a picture
    with torch.no_grad():
        logits = model(
            source["src_tokens"],
            source["prev_output_tokens"],
            source["patch_images"],
            source["patch_masks"],
            patches=source["pretrain_patch_orders"],
        )
        first = sequence_loss(logits, source["target"], settings, pad=PAD_ID, end=EOS_ID)
        logits = model(source["src_tokens"], source["mixed_prev_output_tokens"], source["patch_images"], mixed, mixed)
        confidence = torch.full((len(mixed),), 2.0)
        second = sequence_loss(logits, source["mixed_target"], settings, pad=PAD_ID, end=EOS_ID, confidence=confidence)
    close_enough(compare, "first batch", first.total, case["loss_v1"], 2e-6)
    close_enough(compare, "second batch", second.total, case["loss_v2"], 2e-6)
    compare.exact(
        "tokens", [float(first.tokens), float(second.tokens)], [case["sample_size_v1"], case["sample_size_v2"]]
    )
    close_enough(compare, "pair", first.total / first.tokens + second.total / second.tokens, case["loss"], 2e-6)
    close_enough(compare, "nll", first.nll / first.tokens + second.nll / second.tokens, case["nll_loss"], 2e-6)


def check_functions(compare: Comparison, cases: dict[str, Any], source: dict[str, Tensor]) -> None:
    """Losses of given log-probabilities."""
    for name, case in cases.items():
        if name == "kl_loss":
            compare.loss(name, divergence(*source["fn_lprobs"].chunk(2)), torch.tensor(case))
            continue
        settings, update = settings_of(name.replace("drop_worst", "drop_worst0.25"))
        found = re.search(r"range_(\d+)_(\d+)", name)
        masked = name == "mask" or (found and not settings.consistency)
        log_probs = source["fn_lprobs_masked" if masked else "fn_lprobs"]
        allowed = source["fn_mask"] if name == "mask" else None
        if found:
            allowed = range_mask(int(found[1]), int(found[2]), log_probs.shape[1])
        loss = token_loss(log_probs, source["fn_target"], settings, allowed=allowed, update=update)
        compare.exact(f"{name}: finite", math.isfinite(float(loss.total)), math.isfinite(case["loss"]))
        if math.isfinite(case["loss"]):
            compare.loss(f"{name}: loss", loss.total, torch.tensor(case["loss"]))
        compare.loss(f"{name}: nll", loss.nll, torch.tensor(case["nll"]))
        compare.exact(f"{name}: tokens", loss.tokens, case["ntokens"])


CHECKS: dict[str, Check] = {"losses": check_losses}
