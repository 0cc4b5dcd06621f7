"""Pretraining stages: which parameters train, which positions are hidden, and what the losses are made of."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from one_peace.modalities.base import Processor, Tokens
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.objectives.denoising import denoising_contrast
from one_peace.tasks.pretraining import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    Masks,
    PretrainingBatch,
    PretrainingStage,
    collate_masks,
    collate_pairs,
    freeze_for_stage,
    mask_pair,
    pretraining_losses,
)
from tiny_models import tiny_model, tiny_pairs, tiny_processors

STAGES = {"image": IMAGE_TEXT, "audio": AUDIO_TEXT}


@pytest.fixture(scope="module")
def processors() -> dict[str, Processor]:
    return tiny_processors()


def batch_of(processors: dict[str, Processor], stage: PretrainingStage, seed: int = 0) -> PretrainingBatch:
    pairs = tiny_pairs(processors, stage.partner)
    return collate_pairs(pairs, stage, processors, torch.Generator().manual_seed(seed))


def belongs_to_partner(name: str) -> bool:
    """The published list for sound, in the names of this library."""
    if name.startswith("decoder.") or name == "encoder.logit_scale":
        return True
    parts = name.split(".")
    return (
        name.startswith(("encoder.adapters.audio.", "encoder.projections.audio.", "encoder.fusion.norms.audio."))
        or parts[:3] == ["encoder", "fusion", "blocks"]
        and parts[4:6] == ["ffn", "audio"]
    )


def test_stage_two_trains_exactly_the_partners_own(processors: dict[str, Processor]) -> None:
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freeze_for_stage(model, AUDIO_TEXT)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for seed in range(2):
        optimizer.zero_grad()
        pretraining_losses(model, batch_of(processors, AUDIO_TEXT, seed), AUDIO_TEXT)["total"].backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    own = {name for name in before if belongs_to_partner(name)}
    assert changed <= own
    # What a batch of text and sound does not reach: picture parts of the decoder, rows that no position uses.
    assert own - changed == {name for name in own if "image" in name}
    assert {"encoder.fusion.blocks.1.ffn.audio.gate.weight", "encoder.logit_scale"} <= changed
    assert not any(p.requires_grad for name, p in model.named_parameters() if name not in own)


def test_stage_one_trains_everything_of_its_two_modalities(processors: dict[str, Processor]) -> None:
    model = tiny_model()
    freeze_for_stage(model, AUDIO_TEXT)
    freeze_for_stage(model, IMAGE_TEXT)  # what an earlier stage froze is free again
    assert all(p.requires_grad for p in model.parameters())
    pretraining_losses(model, batch_of(processors, IMAGE_TEXT), IMAGE_TEXT)["total"].backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert untouched == {name for name, _ in model.named_parameters() if "audio" in name}


@pytest.mark.parametrize("partner", ["image", "audio"])
def test_masks_have_the_published_ratios(processors: dict[str, Processor], partner: str) -> None:
    stage = STAGES[partner]
    generator = torch.Generator().manual_seed(0)
    for anchor_example, partner_example in tiny_pairs(processors, partner):
        masks = mask_pair(anchor_example, partner_example, stage, processors, generator)
        assert set(masks) == {"joint_anchor", "partner", "joint_partner"} | (
            {"anchor"} if partner == "image" else set()
        )
        length = processors[partner].length(partner_example)
        assert masks["partner"].sum() == int(length * stage.partner_mask)
        assert masks["joint_partner"].sum() == int(length * stage.joint_partner_mask)
        tokens = anchor_example["tokens"]
        assert all(not masks[name][-1] for name in masks if name.endswith("anchor")), "the end is never hidden"
        if partner == "image":
            # tokens of the joint pass are those that the text pass showed, while there are enough
            assert masks["joint_anchor"].sum() == int((len(tokens) - 1) * 0.4)
            shown = int((~masks["anchor"][:-1]).sum())
            assert (masks["joint_anchor"] & masks["anchor"]).sum() == max(0, int(masks["joint_anchor"].sum()) - shown)
            # and the joint pass hides what the picture pass showed
            assert (masks["joint_partner"] | masks["partner"]).all()


def test_whole_words_are_hidden_in_the_text_pass(processors: dict[str, Processor]) -> None:
    text = processors["text"]
    example = text("unseenword a red apple")
    starts = text.tokenizer.whole_word_starts.bool()[example["tokens"]]  # type: ignore[attr-defined]
    word = starts.cumsum(0)[:-1]
    words = int(word.max())
    assert len(word) > words, "some word has several tokens"
    for seed in range(10):
        hidden = text.mask(example, 0.3, torch.Generator().manual_seed(seed))[:-1]
        touched = word[hidden].unique()
        assert len(touched) == math.ceil(words * 0.3)
        assert torch.equal(hidden, torch.isin(word, touched))


def test_collated_masks_keep_cls_and_pad() -> None:
    masks = collate_masks([torch.tensor([True, False, True]), torch.tensor([False])])
    assert masks.hidden.tolist() == [[False, True, False, True], [False] * 4]
    assert masks.keep.tolist() == [[0, 2], [0, 1]]
    padded = collate_masks([torch.tensor([False, False]), torch.tensor([True])])
    assert padded.keep.tolist() == [[0, 1, 2], [0, -1, -1]]


def test_a_batch_has_inputs_and_masks_that_fit(processors: dict[str, Processor]) -> None:
    batch = batch_of(processors, IMAGE_TEXT)
    assert set(batch.inputs) == {"text", "image"}
    assert set(batch.masks) == {"anchor", "partner", "joint_anchor", "joint_partner"}
    assert batch.masks["anchor"].hidden.shape[1] == batch.inputs["text"]["tokens"].shape[1] + 1
    assert batch.masks["partner"].hidden.shape == (5, 17)
    for masks in batch.masks.values():
        rebuilt = torch.zeros_like(masks.hidden)
        for row, keep in zip(rebuilt, masks.keep, strict=True):
            row[keep[keep >= 0]] = True
        assert not (rebuilt & masks.hidden).any()


@pytest.mark.parametrize("partner", ["image", "audio"])
def test_total_is_the_weighted_sum_of_its_terms(processors: dict[str, Processor], partner: str) -> None:
    stage = STAGES[partner]
    losses = pretraining_losses(tiny_model(), batch_of(processors, stage), stage)
    weights = {"denoise_partner": 1.0, "denoise_joint_anchor": 0.5, "denoise_joint_partner": 0.5}
    if stage.train_anchor:
        weights["denoise_anchor"] = 0.5
    assert {name for name in losses if name.startswith("denoise")} == set(weights)
    total = losses["contrast"] + sum(weight * losses[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["total"], total)
    assert all(losses[name] > 0.1 for name in weights)


@pytest.mark.parametrize("partner", ["image", "audio"])
def test_the_partners_teacher_is_unimodal_only_where_the_anchor_trains(
    processors: dict[str, Processor], partner: str
) -> None:
    """The published stages differ here: sound learns from the joint encoding, pictures from their own."""
    stage, model = STAGES[partner], tiny_model()
    batch = batch_of(processors, stage)
    with torch.no_grad():
        encoder = model.encoder
        alone = encoder({partner: batch.inputs[partner]})[partner]
        joint = encoder({"text": batch.inputs["text"], partner: batch.inputs[partner]})[partner]
        embedded = encoder.embeddings({partner: batch.inputs[partner]})
        student = model.reconstruct(embedded, {partner: batch.masks["partner"].keep})[partner]
        padding = batch.inputs[partner].get("padding")
        losses = pretraining_losses(model, batch, stage)
    by_teacher = [denoising_contrast(student, t, batch.masks["partner"].hidden, padding) for t in (alone, joint)]
    assert (by_teacher[0] - by_teacher[1]).abs() > 1e-5
    expected = by_teacher[0] if partner == "image" else by_teacher[1]
    torch.testing.assert_close(losses["denoise_partner"], expected)


def test_hidden_positions_do_not_reach_the_student(processors: dict[str, Processor]) -> None:
    """Other content behind a mask: the same reconstruction, or the objective could be met by looking."""
    model = tiny_model()
    batch = batch_of(processors, IMAGE_TEXT)
    hidden, keep = batch.masks["partner"].hidden, batch.masks["partner"].keep

    def student(inputs: dict[str, Tensor]) -> Tensor:
        return model.reconstruct(model.encoder.embeddings({"image": inputs}), {"image": keep})["image"]

    pixels = batch.inputs["image"]["pixels"]
    patches = hidden[:, 1:].view(5, 1, 4, 1, 4, 1).expand(5, 3, 4, 16, 4, 16).reshape(5, 3, 64, 64)
    with torch.no_grad():
        before = student({"pixels": pixels})
        torch.testing.assert_close(student({"pixels": pixels.masked_fill(patches, 9.0)}), before)
        assert (student({"pixels": pixels.masked_fill(~patches, 9.0)}) - before).abs().max() > 1e-3


def test_without_denoising_only_the_contrast_counts(processors: dict[str, Processor]) -> None:
    model = tiny_model()
    losses = pretraining_losses(model, batch_of(processors, IMAGE_TEXT), IMAGE_TEXT, denoise=False)
    assert set(losses) == {"contrast", "anchor_correct", "partner_correct", "total"}
    assert losses["total"] == losses["contrast"]
    losses["total"].backward()
    assert all(p.grad is None for p in model.decoder.parameters())


def test_one_word_captions_have_a_finite_loss(processors: dict[str, Processor]) -> None:
    """Two tokens of text leave nothing to hide in the joint pass."""
    text = processors["text"]
    pairs = [(text(word), partner) for word, (_, partner) in zip("ab", tiny_pairs(processors, "image"), strict=False)]
    assert all(len(example["tokens"]) <= 3 for example, _ in pairs)
    batch = collate_pairs(pairs, IMAGE_TEXT, processors, torch.Generator().manual_seed(0))
    assert not batch.masks["joint_anchor"].hidden.any()
    model = tiny_model()
    losses = pretraining_losses(model, batch, IMAGE_TEXT)
    assert losses["denoise_joint_anchor"] == 0.0
    losses["total"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_model_without_decoder_has_the_contrast_alone() -> None:
    processors = tiny_processors()
    model = OnePeaceForPretraining(dataclasses.replace(tiny_model().config, decoder=None))
    plain = collate_pairs(tiny_pairs(processors, "image"), IMAGE_TEXT, processors, None)
    assert not plain.masks
    losses = pretraining_losses(model, plain, IMAGE_TEXT, denoise=False)
    assert losses["total"] == losses["contrast"] and not any(name.startswith("denoise") for name in losses)
    masked = collate_pairs(tiny_pairs(processors, "image"), IMAGE_TEXT, processors, torch.Generator())
    with pytest.raises(ValueError, match="'tiny' has no decoder; the denoising objective needs one"):
        pretraining_losses(model, masked, IMAGE_TEXT)


def test_masks_move_together() -> None:
    moved = Masks(torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64)).to(torch.device("meta"))
    assert moved.hidden.device.type == moved.keep.device.type == "meta"


@pytest.mark.parametrize("partner", ["image", "audio"])
@pytest.mark.parametrize("denoise", [True, False])
def test_where_only_cls_is_needed_only_cls_is_computed(
    processors: dict[str, Processor], partner: str, denoise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last block leaves out what no loss asks for; losses and gradients are those of whole features."""
    stage, model = STAGES[partner], tiny_model()
    freeze_for_stage(model, stage)
    batch = batch_of(processors, stage)
    calls = []

    def whole(fusion: FusionEncoder, name: str, tokens: Tokens) -> Tensor:
        calls.append(name)
        return fusion({name: tokens})[name]

    results = []
    for exact in (True, False):
        model.zero_grad()
        with monkeypatch.context() as patch:
            if exact:
                patch.setattr(FusionEncoder, "cls", whole)
            losses = pretraining_losses(model, batch, stage, denoise=denoise)
        losses["total"].backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        results.append(losses | grads)
    assert calls == ([] if denoise and stage.train_anchor else [stage.anchor, stage.partner])
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert (results[1][name] - value).abs().max() <= 1e-4 * value.abs().max(), name
