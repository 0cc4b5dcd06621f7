"""The step of `benchmarks/textbook.py`, written as plainly as can be, is the oracle of the library's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from one_peace.tasks.pretraining import (
    AUDIO_TEXT,
    IMAGE_TEXT,
    PretrainingStage,
    collate_pairs,
    freeze_for_stage,
    pretraining_losses,
)
from tiny_models import tiny_model, tiny_pairs, tiny_processors

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from textbook import TextbookStep  # noqa: E402


@pytest.mark.parametrize("stage", [IMAGE_TEXT, AUDIO_TEXT], ids=["stage 1", "stage 2"])
def test_losses_and_gradients_are_those_of_the_textbook(stage: PretrainingStage) -> None:
    processors, model = tiny_processors(), tiny_model().train()
    for parameter in model.parameters():  # no bias or scale is zero or one, so that none can hide
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    freeze_for_stage(model, stage)
    # captions and sounds of different lengths: padding in every pass
    pairs = tiny_pairs(processors, stage.partner)[:3]
    batch = collate_pairs(pairs, stage, processors, torch.Generator().manual_seed(0))
    textbook = TextbookStep(model, stage)
    expected = textbook(batch)
    expected["total"].backward()
    losses = pretraining_losses(model, batch, stage)
    losses["total"].backward()
    for name, loss in expected.items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=1e-5), name
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == textbook.gradients().keys()
    for name, grad in textbook.gradients().items():
        assert (gradients[name] - grad).abs().max() <= 1e-4 * grad.abs().max() + 1e-6, name
