"""The lesson of captions gives what encoding whole clips gives, though all but the last blocks are computed once."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from one_peace.tasks.pretraining import AUDIO_TEXT, freeze_for_stage
from one_peace.training.pretraining.caption_lesson import CaptionLesson
from one_peace.training.pretraining.lesson_files import Heard
from tiny_models import CONFIG, tiny_model, tiny_processors

PROCESSORS = tiny_processors()
CAPTIONS = ["two boats", "lamp", "two boats", "a red apple", "blue shoes", "the floor"]


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("lengths", [[9, 9, 9, 9, 9, 9], [12, 5, 30, 7, 12, 18]])
def test_it_is_the_contrast_of_whole_clips(layers: int, lengths: list[int]) -> None:
    model = tiny_model(config=dataclasses.replace(CONFIG, layers=layers))
    freeze_for_stage(model, AUDIO_TEXT)
    encoder = model.encoder
    labels, generator = torch.empty(0, dtype=torch.int32), torch.Generator().manual_seed(0)
    frames = [torch.randn(length, 8, generator=generator).half() for length in lengths]
    clips = [Heard(one, labels, labels, caption) for one, caption in zip(frames, CAPTIONS, strict=True)]
    lesson = CaptionLesson(encoder, AUDIO_TEXT, PROCESSORS, clips, nullcontext())
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad and "logit" not in n}
    learnt = {name: parameter for name, parameter in trained.items() if lesson.learns(name)}
    kept = [n for n in range(layers) if f"fusion.blocks.{n}.ffn.audio.up.weight" in learnt]
    assert kept == list(range(layers))[-2:] and "projections.audio.weight" in learnt
    assert not any(name.startswith("adapters.") for name in learnt)

    rows = [4, 0, 2, 5]
    loss, _ = lesson.loss(rows)
    found = torch.autograd.grad(loss, list(learnt.values()), allow_unused=True)
    order = sorted(set(CAPTIONS))
    texts = encoder.embed("text", PROCESSORS["text"].collate([PROCESSORS["text"](caption) for caption in order]))
    sounds = encoder.embed("audio", PROCESSORS["audio"].collate([{"frames": frames[row].float()} for row in rows]))
    own = torch.tensor([order.index(CAPTIONS[row]) for row in rows])
    plain = F.cross_entropy(encoder.temperature() * sounds @ texts.detach().T, own)
    expected = torch.autograd.grad(plain, list(learnt.values()), allow_unused=True)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-3)  # what is kept is float16
    for name, mine, other in zip(learnt, found, expected, strict=True):
        assert (mine is None) == (other is None), name
        if mine is not None and other is not None:
            torch.testing.assert_close(mine, other, rtol=2e-2, atol=2e-3 * other.abs().max().item(), msg=name)


def test_it_counts_the_clips_that_are_nearest_to_their_own_caption() -> None:
    encoder = tiny_model().encoder
    labels = torch.empty(0, dtype=torch.int32)
    clips = [Heard(torch.randn(9, 8).half(), labels, labels, caption) for caption in CAPTIONS]
    lesson = CaptionLesson(encoder, AUDIO_TEXT, PROCESSORS, clips, nullcontext())
    with torch.no_grad():
        sounds = encoder.embed(
            "audio", PROCESSORS["audio"].collate([{"frames": clip.frames.float()} for clip in clips])
        )
        nearest = (sounds @ lesson.texts.T).argmax(dim=1)
        lesson.own = nearest.tolist()
        assert lesson.loss(range(6))[1] == 1.0
        lesson.own[:3] = [(row + 1) % len(lesson.texts) for row in lesson.own[:3]]
        assert lesson.loss(range(6))[1] == 0.5
