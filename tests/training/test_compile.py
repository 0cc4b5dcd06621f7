"""`engine.compile`: compiled branches train as written, under the names that they have."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import IMAGE_TEXT, collate_pairs
from one_peace.training.distributed import Processes
from one_peace.training.forward_pass import prepare_model
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.recipe import EngineRecipe
from training_runs import PROCESSORS, batches, fresh


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_have_the_same_losses_gradients_and_names(
    monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    """With the compiler's first part only, which takes the code apart; machine code would take minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    batch = collate_pairs(batches(3, 0, 0), IMAGE_TEXT, PROCESSORS, torch.Generator().manual_seed(0))
    results = []
    for engine in (EngineRecipe(), EngineRecipe(compile=True, recompute=recompute)):
        model = fresh().train()  # with drop path
        names = list(model.state_dict())
        losses = prepare_model(PretrainingPass(model, IMAGE_TEXT), engine, Processes(), "cpu")
        torch.manual_seed(0)
        terms = losses(batch, cross_modal_contrast, True)
        terms["total"].backward()
        assert list(model.state_dict()) == names
        results.append(terms | {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert (results[1][name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-7, name
