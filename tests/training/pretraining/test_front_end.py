"""The front end learns to predict spectrograms, and the stage after it leaves it alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from one_peace.modalities.base import Example
from one_peace.tasks.pretraining import AUDIO_TEXT, freeze_for_stage
from one_peace.training.pretraining.front_end import fit_front_end
from tiny_models import CONFIG, tiny_model, tiny_pairs, tiny_processors

PROCESSORS = tiny_processors()


def batches(size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
    return tiny_pairs(PROCESSORS, "audio", step)


def test_it_explains_more_and_more() -> None:
    rows: list[dict[str, Any]] = []
    fitted = fit_front_end(CONFIG, PROCESSORS, batches, 200, 1, rows.append)
    assert [row["front_end_step"] for row in rows] == [100, 200]
    assert rows[1]["unexplained"] < min(0.8, rows[0]["unexplained"])
    own = dict(tiny_model().named_parameters())
    assert fitted and all(own[name].shape == value.shape for name, value in fitted.items())
    assert all(name.startswith("encoder.adapters.audio.frames") for name in fitted)
    assert not any("frames_proj" in name for name in fitted)


def test_the_same_seed_fits_the_same() -> None:
    fitted = [fit_front_end(CONFIG, PROCESSORS, batches, 3, 1, lambda row: None) for _ in range(2)]
    assert all(torch.equal(value, fitted[1][name]) for name, value in fitted[0].items())


def test_a_fitted_front_end_is_kept() -> None:
    model = tiny_model()
    for steps in (0, 10):
        freeze_for_stage(model, dataclasses.replace(AUDIO_TEXT, front_end_steps=steps))
        adapter = model.encoder.adapters["audio"]
        assert all(p.requires_grad == (steps == 0) for p in adapter.frames.parameters())
        assert all(p.requires_grad for p in adapter.frames_proj.parameters())


def test_without_sound_there_is_nothing_to_fit() -> None:
    config = CONFIG.with_modalities(["text", "image"])
    with pytest.raises(ValueError, match="audio adapter"):
        fit_front_end(config, PROCESSORS, batches, 1, 1, lambda row: None)
