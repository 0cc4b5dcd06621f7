"""The ONE-PEACE checks of `parity.py` that concern pretraining: masks, passes, losses, gradients."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from one_peace.checkpoints.one_peace.names import Target, prefixed_name, to_native
from one_peace.modalities import audio, image, text
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    Masks,
    PretrainingBatch,
    PretrainingStage,
    collate_masks,
    freeze_for_stage,
    mask_pair,
    pretraining_losses,
)
from parity import Check, Comparison
from parity_files import Fixture
from parity_one_peace import batches, load, read, reference_config

PAIRS = {"vl": "image", "al": "audio"}  # the fixtures' names of joint inputs


def masks_of(fixture: Fixture, name: str) -> Masks:
    return Masks(fixture[f"in.{name}_mask_indices"], fixture[f"in.{name}_preserve_ids"])


def check_pretraining(fixture: Fixture, compare: Comparison, joint: str, stage: PretrainingStage) -> None:
    """Masks drawn from the seed, every pass, losses, right answers, gradients and the norms of all gradients."""
    partner = stage.partner
    stage = weighted(stage, fixture.meta.get("criterion", {}), joint)
    checkpoint = read(fixture)
    model = load(OnePeaceForPretraining, checkpoint, reference_config(checkpoint))
    freeze_for_stage(model, stage)
    check_trained(fixture, compare, model)
    masks = {
        "partner": masks_of(fixture, partner),
        "joint_anchor": masks_of(fixture, f"{joint}_text"),
        "joint_partner": masks_of(fixture, f"{joint}_{partner}"),
    }
    if stage.train_anchor:
        masks["anchor"] = masks_of(fixture, "text")
    batch = PretrainingBatch(batches(fixture), masks)
    check_masks_drawn(fixture, compare, model.config, stage, batch)
    check_passes(fixture, compare, model, stage, batch)

    losses = pretraining_losses(model, batch, stage)
    losses["total"].backward()
    prefix = {"image": "itc", "audio": "atc"}[partner]
    names = {
        "loss": "total",
        f"{prefix}_loss": "contrast",
        "dcl_text_loss": "denoise_anchor",
        f"dcl_{partner}_loss": "denoise_partner",
        f"dcl_{joint}_text_loss": "denoise_joint_anchor",
        f"dcl_{joint}_{partner}_loss": "denoise_joint_partner",
    }
    for theirs, ours in names.items():
        if f"out.{theirs}" in fixture.tensors:
            compare.loss(theirs, losses[ours], fixture[f"out.{theirs}"])
    for name, ours in ((f"{partner[0]}2t", "partner_correct"), (f"t2{partner[0]}", "anchor_correct")):
        if f"out.{name}_ncorrect" in fixture.tensors:
            compare.exact(f"{name} right", float(losses[ours]), float(fixture[f"out.{name}_ncorrect"]))
    if "out.logit_scale_exp" in fixture.tensors:
        compare.loss("temperature at the end", model.encoder.temperature(), fixture["out.logit_scale_exp"])
    check_gradients(fixture, compare, model)


def weighted(stage: PretrainingStage, criterion: dict[str, float], joint: str) -> PretrainingStage:
    """The stage with the settings that the file's losses were computed with."""
    fields = {
        "dcl_text_alpha": "anchor_weight",
        f"dcl_{stage.partner}_alpha": "partner_weight",
        f"dcl_{joint}_text_alpha": "joint_anchor_weight",
        f"dcl_{joint}_{stage.partner}_alpha": "joint_partner_weight",
        "dcl_logit_scale": "denoising_scale",
        "label_smoothing": "denoising_smoothing",
    }
    return dataclasses.replace(stage, **{fields[name]: value for name, value in criterion.items()})


def check_trained(fixture: Fixture, compare: Comparison, model: nn.Module) -> None:
    """Which parameters the stage trains, and which it leaves as they are."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    compare.exact("all are trained", len(trained) == len([*model.parameters()]), "frozen" not in fixture.meta)
    for wanted in ("trainable", "frozen"):
        for official in fixture.meta.get(wanted, ()):
            target = to_native(official)
            compare.exact(f"{official} is known", target is not None, True)
            if isinstance(target, Target):
                compare.exact(f"{official} is {wanted}", prefixed_name(target.name) in trained, wanted == "trainable")


def check_masks_drawn(
    fixture: Fixture,
    compare: Comparison,
    config: OnePeaceConfig,
    stage: PretrainingStage,
    batch: PretrainingBatch,
) -> None:
    if "torch_seed_for_masks" not in fixture.meta:
        return
    partner = stage.partner
    settings = config.modalities[partner]
    processors: dict[str, Any] = {"image": image.ImageProcessor, "audio": audio.AudioProcessor}
    processors = {"text": WordStarts(fixture["in.mask_whole_word"]), partner: processors[partner](settings)}
    generator = torch.Generator().manual_seed(fixture.meta["torch_seed_for_masks"])
    drawn = []
    tokens = fixture["in.src_tokens"]
    for row in range(tokens.shape[0]):
        anchor = {"tokens": tokens[row][tokens[row] != text.PAD_ID]}
        if partner == "image":
            example = {"pixels": fixture["in.src_images"][row]}
        else:
            frames = int((~fixture["in.audio_padding_masks"][row]).sum()) - 1
            example = {"waveform": torch.zeros(shortest_waveform(frames, settings.convs))}
        drawn.append(mask_pair(anchor, example, stage, processors, generator))
    for name, masks in batch.masks.items():
        ours = collate_masks([d[name] for d in drawn])
        width = masks.hidden.shape[1]
        hidden = nn.functional.pad(ours.hidden, (0, width - ours.hidden.shape[1]))
        compare.exact(f"mask {name}", hidden, masks.hidden)
        compare.exact(f"kept {name}", ours.keep, masks.keep)


def shortest_waveform(frames: int, convs: Any) -> int:
    """The fewest samples that make so many frames."""
    for _, kernel, stride in reversed(convs):
        frames = (frames - 1) * stride + kernel
    return frames


class WordStarts(text.TextProcessor):
    """A text processor that knows only which ids begin a word."""

    def __init__(self, starts: Tensor) -> None:
        self.tokenizer: Any = type("Starts", (), {"whole_word_starts": starts})


@torch.no_grad()
def check_passes(
    fixture: Fixture, compare: Comparison, model: OnePeaceForPretraining, stage: PretrainingStage, batch: Any
) -> None:
    """The outputs of each pass, in the fixture's order of calls."""
    order = {"text": 0, "image": 1, "audio": 2}
    encoder = model.encoder
    for index, (kind, given) in enumerate(fixture.meta["calls"]):
        names = ["text", PAIRS[kind]] if kind in PAIRS else [kind]
        if kind == "logit_scale":
            compare.loss("temperature", encoder.temperature(), fixture[f"out.call{index}.0"])
            continue
        embeddings = encoder.embeddings({n: batch.inputs[n] for n in names})
        if any("preserve_ids" in key for key in given):
            keep = {n: batch.masks[pass_name(n, len(names) > 1, stage)].keep for n in names}
            outputs = {order[n]: x for n, x in model.reconstruct(embeddings, keep).items()}
        else:
            features = encoder.fusion(encoder.arrange(embeddings))
            if len(names) == 1:
                outputs = {0: encoder.project(kind, features[kind]), 1: features[kind]}
            else:
                outputs = {place: features[n] for place, n in enumerate(names)}
        for place, ours in outputs.items():
            compare.activation(f"call {index}.{place}", ours, fixture[f"out.call{index}.{place}"])


def pass_name(modality: str, joint: bool, stage: PretrainingStage) -> str:
    role = "anchor" if modality == stage.anchor else "partner"
    return f"joint_{role}" if joint else role


def check_gradients(fixture: Fixture, compare: Comparison, model: nn.Module) -> None:
    """Gradients of the tensors in the file, and the norms of all."""
    parameters = dict(model.named_parameters())

    def gradient(official: str) -> Tensor | None:
        target = to_native(official)
        compare.exact(f"{official} is known", target is not None, True)
        if not isinstance(target, Target):  # never read: without a gradient
            return None
        grad = parameters[prefixed_name(target.name)].grad
        return grad if grad is None or target.part is None else grad.chunk(3)[target.part]

    for name, theirs in fixture.group("grad.").items():
        compare.gradient(f"gradient {name}", gradient(name), theirs)
    for name, norm in fixture.meta.get("grad_norms", {}).items():
        ours = gradient(name)
        norm_here = torch.zeros(()) if ours is None else ours.norm()
        compare.gradient(f"gradient norm {name}", norm_here, torch.tensor(norm or 0.0))


def check_masks(fixture: Fixture, compare: Comparison) -> None:
    """Masks of blocks of frames and of whole words; ratios and seeds are in the names."""
    for name, theirs in fixture.tensors.items():
        if name.startswith("block_"):
            _, frames, ratio, seed = name.split("_")
            generator = torch.Generator().manual_seed(int(seed))
            compare.exact(name, audio.block_mask(int(frames), float(ratio), generator), theirs)
        elif name.startswith("ww_mask_"):
            index, ratio = name.removeprefix("ww_mask_").split("_p")
            generator = torch.Generator().manual_seed(2000 + int(index))
            tokens, starts = fixture[f"ww_src_{index}"], fixture["mask_whole_word"]
            compare.exact(name, text.whole_word_mask(tokens, starts, float(ratio), generator), theirs)
        elif not name.startswith(("ww_src_", "mask_whole_word")):
            raise ValueError(f"{name}: no mask of this kind")


CHECKS: dict[str, Check] = {
    "fixture2_pretrain_vl": lambda f, c: check_pretraining(f, c, "vl", IMAGE_TEXT),
    "fixture3_pretrain_al": lambda f, c: check_pretraining(f, c, "al", AUDIO_TEXT),
    "fixture_x_masks": check_masks,
}
