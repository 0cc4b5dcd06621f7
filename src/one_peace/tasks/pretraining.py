"""Pretraining on pairs: cross-modal contrast plus denoising contrast (paper, section 3.3).

One stage aligns a partner modality with the anchor, text. Stage 1 trains text and image together. A later stage
(audio, or any further modality) freezes everything but the partner's own parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from one_peace.configuration import within
from one_peace.modalities.base import Embedded, Example, Processor
from one_peace.models.one_peace.model import Inputs, OnePeaceEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.objectives.contrast import ContrastResult, cross_modal_contrast
from one_peace.objectives.denoising import denoising_contrast


@dataclass(frozen=True)
class PretrainingStage:
    """Which pair is trained, how much of it is masked, and the weight of each denoising term.

    With `train_anchor` both unimodal students learn from the unimodal teachers. Without it the anchor is frozen,
    has no student of its own, and the partner's teacher is the joint encoding, as published. With
    `front_end_steps` a new audio front end is first fitted to spectrograms for so many steps; it is kept as it is then.
    A new audio side is then taught the sounds of speech for `speech_sound_steps`, its words for `word_steps`,
    and to tell captions apart by them for `caption_steps`. A new text and picture side first learn from frozen
    teachers for `teacher_steps`, with the sample library only.
    """

    partner: str
    train_anchor: bool
    partner_mask: float
    joint_anchor_mask: float
    joint_partner_mask: float
    anchor_mask: float = 0.15
    anchor: str = "text"
    anchor_weight: float = 0.5
    partner_weight: float = 1.0
    joint_anchor_weight: float = 0.5
    joint_partner_weight: float = 0.5
    denoising_scale: float = 2.5
    denoising_smoothing: float = 0.1
    teacher_steps: int = 0
    front_end_steps: int = 0
    speech_sound_steps: int = 0
    word_steps: int = 0
    caption_steps: int = 0

    def __post_init__(self) -> None:
        shares = ("anchor_mask", "partner_mask", "joint_anchor_mask", "joint_partner_mask", "denoising_smoothing")
        weights = ("anchor_weight", "partner_weight", "joint_anchor_weight", "joint_partner_weight", "denoising_scale")
        lessons = ("teacher_steps", "front_end_steps", "speech_sound_steps", "word_steps", "caption_steps")
        within(self, "stage", **dict.fromkeys(shares, "[0, 1)"), **dict.fromkeys((*weights, *lessons), "[0, inf)"))
        if self.teacher_steps and (self.partner != "image" or not self.train_anchor):
            raise ValueError("stage.teacher_steps: for a stage of pictures that trains text too")


IMAGE_TEXT = PretrainingStage("image", True, partner_mask=0.75, joint_anchor_mask=0.4, joint_partner_mask=0.6875)
AUDIO_TEXT = PretrainingStage("audio", False, partner_mask=0.55, joint_anchor_mask=0.4, joint_partner_mask=0.45)


@dataclass
class Masks:
    """Masks of one modality in one pass: hidden (batch, tokens) bool and kept positions (batch, visible) int64."""

    hidden: Tensor
    keep: Tensor

    def to(self, device: torch.device) -> Masks:
        return Masks(self.hidden.to(device), self.keep.to(device))


@dataclass
class PretrainingBatch:
    """Collated inputs by modality, and the masks of the passes `anchor`, `partner`, `joint_anchor`, `joint_partner`."""

    inputs: dict[str, dict[str, Tensor]]
    masks: dict[str, Masks]


def collate_masks(masks: Sequence[Tensor]) -> Masks:
    """Masks (length,) without cls -> batch with cls, which is always kept. Hidden pads with False, keep with -1."""
    with_cls = [torch.cat([m.new_zeros(1), m]) for m in masks]
    hidden = nn.utils.rnn.pad_sequence(with_cls, batch_first=True)
    kept = [(~m).nonzero().squeeze(1) for m in with_cls]
    return Masks(hidden, nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=-1))


def mask_pair(
    anchor: Example,
    partner: Example,
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The masks of one pair, drawn in the published order."""
    masks: dict[str, Tensor] = {}
    mask_anchor, mask_partner = processors[stage.anchor].mask, processors[stage.partner].mask
    if stage.train_anchor:
        masks["anchor"] = mask_anchor(anchor, stage.anchor_mask, generator)
    masks["joint_anchor"] = mask_anchor(anchor, stage.joint_anchor_mask, generator, masks.get("anchor"))
    masks["partner"] = mask_partner(partner, stage.partner_mask, generator)
    masks["joint_partner"] = mask_partner(partner, stage.joint_partner_mask, generator, masks["partner"])
    return masks


def collate_pairs(
    pairs: Sequence[tuple[Example, Example]],
    stage: PretrainingStage,
    processors: Mapping[str, Processor],
    generator: torch.Generator | None,
) -> PretrainingBatch:
    """(anchor, partner) examples -> a masked batch; without a generator one without masks, for the contrast alone."""
    masks = [{} if generator is None else mask_pair(a, p, stage, processors, generator) for a, p in pairs]
    return PretrainingBatch(
        inputs={
            stage.anchor: processors[stage.anchor].collate([a for a, _ in pairs]),
            stage.partner: processors[stage.partner].collate([p for _, p in pairs]),
        },
        masks={name: collate_masks([m[name] for m in masks]) for name in masks[0]},
    )


Contrast = Callable[[Tensor, Tensor, Tensor], ContrastResult]


def pretraining_losses(
    model: OnePeaceForPretraining,
    batch: PretrainingBatch,
    stage: PretrainingStage,
    contrast: Contrast = cross_modal_contrast,
    denoise: bool = True,
    teacher: OnePeaceEncoder | None = None,
) -> dict[str, Tensor]:
    """Weighted `total` and its terms (scalars), plus counts of correct retrievals in the batch.

    `contrast` takes (anchor, partner, temperature); distributed training passes one over the global batch.
    Without `denoise` only the contrast is computed. `teacher` is the encoder whose features of the whole inputs the
    denoising terms ask for: the model's own, as published, or another of its shape.
    """
    anchor, partner = stage.anchor, stage.partner
    encoder = model.encoder
    # Features of all positions are needed where they teach; elsewhere the last block computes cls alone.
    teaches = denoise and stage.train_anchor and teacher is None

    def encode(name: str) -> tuple[Embedded, Tensor]:
        embedded = encoder.adapter(name).embed(batch.inputs[name])
        tokens = encoder.arrange({name: embedded})
        return embedded, encoder.fusion(tokens)[name] if teaches else encoder.fusion.cls(name, tokens[name])

    with torch.set_grad_enabled(stage.train_anchor and torch.is_grad_enabled()):
        anchor_embedded, anchor_full = encode(anchor)
        anchor_vector = encoder.project(anchor, anchor_full)
    partner_embedded, partner_full = encode(partner)
    result = contrast(anchor_vector, encoder.project(partner, partner_full), encoder.temperature())
    losses = {
        "contrast": result.loss,
        "anchor_correct": result.first_to_second_correct,
        "partner_correct": result.second_to_first_correct,
    }
    if denoise:
        embeddings = {anchor: anchor_embedded, partner: partner_embedded}
        alone = {anchor: anchor_full, partner: partner_full}
        with torch.no_grad():
            targets = _own_targets(encoder, embeddings, alone) if teacher is None else _targets(teacher, batch.inputs)
        losses |= _denoising_terms(model, batch, stage, embeddings, targets)
    weights = {
        "denoise_anchor": stage.anchor_weight,
        "denoise_partner": stage.partner_weight,
        "denoise_joint_anchor": stage.joint_anchor_weight,
        "denoise_joint_partner": stage.joint_partner_weight,
    }
    terms = [weight * losses[name] for name, weight in weights.items() if name in losses]
    losses["total"] = result.loss + sum(terms)
    return losses


@dataclass
class _Targets:
    """Features of whole inputs (batch, tokens, width) by modality: each alone, and in the joint sequence."""

    alone: Mapping[str, Tensor]
    joint: Mapping[str, Tensor]
    padding: Mapping[str, Tensor | None]


def _own_targets(encoder: OnePeaceEncoder, embeddings: Mapping[str, Embedded], alone: Mapping[str, Tensor]) -> _Targets:
    tokens = encoder.arrange(embeddings)
    return _Targets(alone, encoder.fusion(tokens), {name: t.full_padding for name, t in tokens.items()})


def _targets(teacher: OnePeaceEncoder, inputs: Inputs) -> _Targets:
    embeddings = teacher.embeddings(inputs)
    alone = {name: teacher.fusion(teacher.arrange({name: e}))[name] for name, e in embeddings.items()}
    return _own_targets(teacher, embeddings, alone)


def _denoising_terms(
    model: OnePeaceForPretraining,
    batch: PretrainingBatch,
    stage: PretrainingStage,
    embeddings: Mapping[str, Embedded],
    targets: _Targets,
) -> dict[str, Tensor]:
    anchor, partner = stage.anchor, stage.partner

    def term(student: Tensor, teacher: Tensor, masks: Masks, name: str) -> Tensor:
        return denoising_contrast(
            student, teacher, masks.hidden, targets.padding[name], stage.denoising_scale, stage.denoising_smoothing
        )

    def alone(name: str, masks: Masks) -> Tensor:
        return model.reconstruct({name: embeddings[name]}, {name: masks.keep})[name]

    masks = batch.masks
    terms = {}
    if stage.train_anchor:
        terms["denoise_anchor"] = term(alone(anchor, masks["anchor"]), targets.alone[anchor], masks["anchor"], anchor)
    partner_teacher = targets.alone[partner] if stage.train_anchor else targets.joint[partner]
    terms["denoise_partner"] = term(alone(partner, masks["partner"]), partner_teacher, masks["partner"], partner)
    joint = model.reconstruct(embeddings, {anchor: masks["joint_anchor"].keep, partner: masks["joint_partner"].keep})
    terms["denoise_joint_anchor"] = term(joint[anchor], targets.joint[anchor], masks["joint_anchor"], anchor)
    terms["denoise_joint_partner"] = term(joint[partner], targets.joint[partner], masks["joint_partner"], partner)
    return terms


def freeze_for_stage(model: OnePeaceForPretraining, stage: PretrainingStage) -> None:
    """Sets `requires_grad`: everything in a stage that trains the anchor, else only what is the partner's own.

    The partner's own are its adapter (but for a front end already fitted), expert, norms and projection, the whole
    decoder and the logit scale.
    """
    own = (
        f"adapters.{stage.partner}.",
        f".ffn.{stage.partner}.",
        f"norms.{stage.partner}.",
        f"projections.{stage.partner}.",
    )
    for name, parameter in model.encoder.named_parameters():
        trained = stage.train_anchor or name == "logit_scale" or any(part in name for part in own)
        kept = stage.front_end_steps > 0 and name.startswith(f"adapters.{stage.partner}.frames.")
        parameter.requires_grad_(trained and not kept)
