"""MiCo's objectives: task strings, what a batch must have, several processes. The values are in the golden numbers."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

import golden_mico as golden
from one_peace.objectives.masked_words import hide_words
from one_peace.tasks.mico.pretraining import HiddenWords, MiCoBatch, MiCoTask, mico_losses, parse_tasks

GOLDEN = Path(__file__).parents[2] / "golden" / "mico"


def test_tasks_are_typed() -> None:
    tasks = parse_tasks("ret%tva_cap%tid%td_qa%tvas")
    assert tasks == (
        MiCoTask("retrieval", (("vision", "audio"),)),
        MiCoTask("captioning", (("vision", "depth"), ("depth",))),
        MiCoTask("answering", (("vision", "audio", "subtitle"),)),
    )
    assert MiCoTask("retrieval", (("audio", "vision"),)).tuples == (("vision", "audio"),)


@pytest.mark.parametrize(
    "text", ["", "ret", "rat%tv", "ret%va", "ret%t", "ret%tvv", "ret%tx", "ret%tvi", "ret%tv__cap%tv"]
)
def test_what_is_no_task(text: str) -> None:
    with pytest.raises(ValueError, match="task|tuples"):
        parse_tasks(text)


def batch(rows: int, seed: int = 0) -> MiCoBatch:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(200, 900, (rows, 6), generator=generator)
    captions = torch.cat([torch.full((rows, 1), 101), words, torch.full((rows, 1), 102)], dim=1)
    hidden = HiddenWords(*hide_words(captions, 0.6, random.Random(seed), mask_id=103, words=range(106, 30522)))
    return MiCoBatch(
        {
            "video": {"frames": torch.randn(rows, 2, 3, 56, 56, generator=generator)},
            "audio": {"slices": torch.randn(rows, 2, 56, 56, generator=generator)},
        },
        {"caption": captions},
        {"caption": hidden},
    )


def test_what_a_batch_lacks_is_named() -> None:
    model = golden.model(GOLDEN)
    for text, missing in (("ret%td", "depth"), ("ret%tvs", "subtitles"), ("qa%tv", "questions")):
        with pytest.raises(ValueError, match=missing), torch.no_grad():
            mico_losses(model, batch(2), parse_tasks(text))
    both = batch(2)
    both.inputs = {**both.inputs, "image": both.inputs["video"]}
    with pytest.raises(ValueError, match="two modalities"), torch.no_grad():
        mico_losses(model, both, parse_tasks("ret%tv"))


def test_a_total_is_the_sum_of_means() -> None:
    model = golden.model(GOLDEN)

    def losses(text: str) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return mico_losses(model, batch(3), parse_tasks(text), draw=lambda weights: weights.argmax(1))

    joint, video, audio = losses("ret%tv%ta_cap%tv"), losses("ret%tv_cap%tv"), losses("ret%ta")
    for name in ("contrast", "matching"):
        assert torch.allclose(joint[name], (video[name] + audio[name]) / 2, atol=1e-6)
    assert torch.allclose(joint["captioning"], video["captioning"])
    assert torch.allclose(joint["total"], joint["contrast"] + joint["matching"] + joint["captioning"])


def test_a_clip_that_stands_in_a_batch_twice_is_no_negative_of_itself() -> None:
    """As where an epoch ends within the batch."""
    model, once = golden.model(GOLDEN), batch(3)
    rows = torch.tensor([0, 1, 2, 0])
    twice = MiCoBatch(
        {name: {key: value[rows] for key, value in given.items()} for name, given in once.inputs.items()},
        {"caption": once.captions["caption"][rows]},
        clips=torch.tensor([7, 8, 9, 7]),
    )
    drawn_from: list[torch.Tensor] = []

    def draw(weights: torch.Tensor) -> torch.Tensor:
        drawn_from.append(weights > 0)
        return weights.argmax(1)

    with torch.no_grad():
        losses = mico_losses(model, twice, parse_tasks("ret%tv"), draw)
        blind = mico_losses(model, dataclasses.replace(twice, clips=None), parse_tasks("ret%tv"))
        known = mico_losses(model, dataclasses.replace(once, clips=torch.tensor([7, 8, 9])), parse_tasks("ret%tv"))
        unknown = mico_losses(model, once, parse_tasks("ret%tv"))
    assert all(drawable.tolist()[0] == drawable.tolist()[3] == [False, True, True, False] for drawable in drawn_from)
    assert losses["contrast"] < blind["contrast"]
    assert torch.equal(known["contrast"], unknown["contrast"])


def test_two_processes_give_the_gradient_of_one() -> None:
    """Each computes its half against what both have; the mean of their gradients is that of the whole batch."""
    tasks, whole = parse_tasks("ret%tva_cap%tv"), batch(4)
    model = golden.model(GOLDEN, matching_weight=1.0)
    # the same negatives for the same rows, and for the whole batch the same rows for the same negatives
    wrong = torch.tensor([2, 3, 0, 1])
    losses = mico_losses(model, whole, tasks, draw=lambda _: wrong)
    losses["total"].backward()
    single = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    def half(first: int) -> MiCoBatch:
        rows = slice(first, first + 2)
        hidden = whole.hidden_captions["caption"]
        return MiCoBatch(
            {name: {key: value[rows] for key, value in inputs.items()} for name, inputs in whole.inputs.items()},
            {"caption": whole.captions["caption"][rows]},
            {"caption": HiddenWords(hidden.tokens[rows], hidden.labels[rows])},
        )

    # what the processes would send each other, computed with gradient, in the order in which it is asked for
    features = [
        {"vision": model.encode("video", h.inputs["video"]), "audio": model.encode("audio", h.inputs["audio"])}
        for h in (half(0), half(2))
    ]
    pooled = [{name: model.pool(name, x) for name, x in f.items()} for f in features]
    texts = torch.cat([model.embed("text", {"tokens": half(n).captions["caption"]}) for n in (0, 2)]).detach()
    vectors = torch.cat([model.project(("vision", "audio"), p) for p in pooled]).detach()
    memories = torch.cat([model.remember(f) for f in features])
    total = torch.zeros(())
    labels = (whole.hidden_captions["caption"].labels != -100).sum()
    for first in (0, 2):
        answers = iter([texts, vectors, whole.captions["caption"], memories])
        part = mico_losses(
            model,
            half(first),
            tasks,
            draw=lambda _, f=first: wrong[f : f + 2],
            gather=lambda _, a=answers: next(a),
            offset=first,
        )
        share = (half(first).hidden_captions["caption"].labels != -100).sum() / labels
        total = total + (part["contrast"] + part["matching"]) / 2 + part["captioning"] * share
    assert torch.allclose(total, losses["total"], atol=1e-5)
    total.backward()
    for name, parameter in model.named_parameters():
        if name in single:
            assert parameter.grad is not None
            worst = (parameter.grad - single[name]).abs().max()
            assert worst <= 1e-4 * single[name].abs().max() + 1e-6, name
