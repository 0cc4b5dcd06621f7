"""The studies compare what they say: arms differ in their subject, and see the same pairs in the same order."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from one_peace.data.manifest import Item
from one_peace.modalities.base import Example
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.tasks.pretraining import PretrainingBatch, collate_pairs
from one_peace.tasks.sample_library import STAMPS
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.front_end import fit_front_end
from tiny_models import CAPTIONS, CONFIG, tiny_pairs, tiny_processors

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from studies import candidates, denoising, stages, structure, teacher  # noqa: E402
from studies.measures import _auc, difference, judge, mean_over_seeds  # noqa: E402
from studies.setting import IMAGES, Arm, Remembered, Scale, Study, World  # noqa: E402
from studies.writing import draw, panels_of, to_markdown  # noqa: E402
from study import STUDIES, run_study  # noqa: E402

Drawn = list[tuple[str, int, int]]


class Source:
    """Pairs of one kind that writes down which batches were asked for."""

    def __init__(self, kind: str, drawn: Drawn) -> None:
        self.kind, self.drawn = kind, drawn

    def __call__(self, size: int, seed: int, step: int) -> list[tuple[Example, Example]]:
        self.drawn.append((self.kind, seed, step))
        partner = "image" if self.kind == "image" else "audio"
        return tiny_pairs(processors(), partner, 1000 * seed + step)[:size]


@cache
def processors() -> dict[str, Any]:
    return tiny_processors()


def make_world(
    drawn: Drawn | None = None, judged: list[Item] | None = None, cls: type[World] = World, steps: int = 2
) -> World:
    sounds = {name for study in STUDIES.values() for name in study.sounds}
    batches = {kind: Source(kind, [] if drawn is None else drawn) for kind in ("image", *sounds)}
    return cls(Scale(batch_size=4, steps=steps, front_end_steps=1), CONFIG, processors(), batches, judged or [])


def batch_of(step: int = 0) -> PretrainingBatch:
    generator = torch.Generator().manual_seed(step)
    return collate_pairs(tiny_pairs(processors(), "image", step), IMAGES, processors(), generator)


def outputs(model: OnePeaceForPretraining, *names: str) -> dict[str, Tensor]:
    inputs = batch_of().inputs
    with torch.no_grad():
        found: dict[str, Tensor] = model.encoder({name: inputs[name] for name in names})
    return found


def pair_of_models() -> tuple[OnePeaceForPretraining, OnePeaceForPretraining]:
    world = make_world()
    return world.model(structure.MODALITIES, 1), world.model(structure.MODALITIES, 1)


def test_sharing_all_leaves_one_feed_forward() -> None:
    published, shared = pair_of_models()
    structure.share_all(shared)
    for block in shared.encoder.fusion.blocks:
        assert block.ffn["image"] is block.ffn["text"]
    saved = sum(p.numel() for b in published.encoder.fusion.blocks for p in b.ffn["image"].parameters())
    count = [sum(p.numel() for p in model.encoder.parameters()) for model in (published, shared)]
    assert count[0] - count[1] == saved
    assert outputs(shared, "text")["text"].equal(outputs(published, "text")["text"])
    assert not outputs(shared, "image")["image"].allclose(outputs(published, "image")["image"], atol=1e-3)


def test_separate_blocks_start_as_the_shared_one_and_share_nothing() -> None:
    published, separate = pair_of_models()
    structure.separate_all(separate)
    for names in (("text",), ("image",), ("text", "image")):
        ours, theirs = outputs(separate, *names), outputs(published, *names)
        for name in names:
            torch.testing.assert_close(ours[name], theirs[name])
    inputs = batch_of().inputs["text"]
    torch.testing.assert_close(separate.encoder.embed("text", inputs), published.encoder.embed("text", inputs))
    separate.encoder.embed("text", inputs).sum().backward()
    for block in separate.encoder.fusion.blocks:
        assert block.own["text"].attention.qkv.weight.grad is not None
        assert all(p.grad is None for p in block.own["image"].parameters())


def test_separate_blocks_attend_across_modalities() -> None:
    _, separate = pair_of_models()
    structure.separate_all(separate)
    inputs = batch_of().inputs
    before = separate.encoder(inputs)["text"]
    after = separate.encoder({**inputs, "image": {"pixels": inputs["image"]["pixels"] + 1}})["text"]
    assert (before - after).abs().max() > 1e-4


def test_the_teacher_is_the_average() -> None:
    model = make_world().model(("text", "image"), 1)
    losses = teacher.AveragedTeacher(model, IMAGES, decay=0.9)
    weight = model.encoder.fusion.blocks[0].attention.out.weight
    expected = weight.detach().clone()
    for step in range(3):
        if step:
            expected.lerp_(weight.detach(), 0.1)
        losses(batch_of(step), cross_modal_contrast, True)["total"].backward()
        torch.testing.assert_close(losses._teacher[0].fusion.blocks[0].attention.out.weight.data, expected)
        with torch.no_grad():
            weight.add_(0.1 * torch.randn_like(weight, generator=torch.Generator().manual_seed(step)))
    assert all(p.grad is None for p in losses._teacher[0].parameters())
    assert {n for n, _ in losses.named_parameters()} == {f"model.{n}" for n, _ in model.named_parameters()}


def test_an_average_teaches_as_the_model_itself_until_they_part() -> None:
    model = make_world().model(("text", "image"), 1)
    averaged = teacher.AveragedTeacher(model, IMAGES, decay=0.9)
    own = PretrainingPass(model, IMAGES)

    def terms(losses: PretrainingPass) -> dict[str, float]:
        found = losses(batch_of(), cross_modal_contrast, True)
        return {name: value.item() for name, value in found.items() if name.startswith("denoise")}

    assert terms(averaged) == pytest.approx(terms(own), rel=1e-5)
    with torch.no_grad():
        for parameter in model.encoder.fusion.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    ours, theirs = terms(averaged), terms(own)
    assert len(ours) == 4 and all(abs(ours[name] - theirs[name]) > 1e-5 for name in ours)


def test_contrast_alone_never_denoises_and_gets_the_same_arithmetic() -> None:
    world = make_world()
    ratio = denoising.cost_of_denoising(world)
    assert 1.5 < ratio < 8
    model = world.model(("text", "image"), 1)
    for every, terms in ((0, 0), (1, 4)):
        recipe = world.recipe(IMAGES, 1, 2, denoise_every=every)
        values = world.update(PretrainingPass(model, IMAGES), recipe, "image")(0)
        assert sum(name.startswith("denoise") for name in values) == terms
    drawn: Drawn = []
    longer = make_world(drawn)
    denoising.contrast_for_the_same_arithmetic(longer, 1)
    assert max(step for _, _, step in drawn) + 1 == round(ratio * longer.scale.steps)


class Watched(World):
    """Keeps the text vectors before and after every run of the loop."""

    seen: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012

    def train(self, model: OnePeaceForPretraining, *arguments: Any, **named: Any) -> None:
        before = outputs(model, "text")["text"]
        super().train(model, *arguments, **named)
        self.seen.append((before, outputs(model, "text")["text"]))


def test_two_stages_freeze_text_and_one_does_not() -> None:
    Watched.seen.clear()
    stages.two_stages(make_world(cls=Watched), 1)
    (before, first), (second, after) = Watched.seen
    assert not before.equal(first) and first.equal(second) and second.equal(after)
    Watched.seen.clear()
    drawn: Drawn = []
    stages.one_stage(make_world(drawn, cls=Watched), 1)
    ((before, after),) = Watched.seen
    assert not before.equal(after)
    assert drawn[-4:] == [("image", 1, 0), ("sounds", 1, 0), ("image", 1, 1), ("sounds", 1, 1)]


def test_candidates_learn_by_the_rule_of_the_arm() -> None:
    published, full = ([*arm.build(make_world([], steps=2), seed=3).parameters()] for arm in candidates.STUDY.arms)
    assert any(not one.equal(other) for one, other in zip(published, full, strict=True))


@pytest.mark.parametrize("name", STUDIES)
def test_all_arms_see_the_same_pictures(name: str) -> None:
    orders = []
    for arm in STUDIES[name].arms:
        drawn: Drawn = []
        world = make_world(drawn, steps=1)
        model = arm.build(world, seed=3)
        assert {seed for _, seed, _ in drawn} - {0} == {3}
        orders.append([step for kind, seed, step in drawn if kind == "image" and seed == 3])
        assert all(torch.isfinite(p).all() for p in model.parameters())
    assert all(order == list(range(len(order))) and order for order in orders), orders


def pictures(folder: Path) -> list[Item]:
    items = []
    for number, caption in enumerate(CAPTIONS * 2):
        path = folder / f"{number}.png"
        Image.new("RGB", (20, 20), (25 * number, 40, 90)).save(path)
        split = "train" if caption in CAPTIONS[:3] else "test"
        items.append(Item(str(number), "image", path, caption, split, STAMPS, "1", "CC0", {"en": [caption]}))
    return items


def test_a_study_is_run_written_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study = Study(
        "Does it run?",
        "Nothing is trained.",
        (
            Arm("one", lambda w, seed: w.model(("text", "image"), seed)),
            Arm("two", lambda w, s: w.model(("text", "image"), 9)),
        ),
        ("image -> text, held out: AUC",),
    )
    kept: list[Mapping[str, Any]] = []
    record = run_study(
        make_world(judged=pictures(tmp_path)), study, 2, lambda r: kept.append(json.loads(json.dumps(r)))
    )
    assert [r["seeds"] for r in kept] == [1, 2]
    assert [(run["arm"], run["seed"]) for run in record["runs"]] == [("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    two = [run["figures"] for run in record["runs"] if run["arm"] == "two"]
    assert two[0] == two[1]  # the same model is judged the same way
    facts = {"date": "2026-01-01", "commit": "0123456789+", "machine": "any", "threads": 1}
    for whole in ({"command": "python benchmarks/study.py x", "facts": facts, **r} for r in (*kept, record)):
        table = to_markdown(whole)
        for figure in ("image -> text, held out: AUC", "image -> text, seen: R@10", "text -> image, held out: R@10"):
            assert f"| {figure} | one |" in table and f"| {figure} | two |" in table
        assert "0123456+" in table
        draw(panels_of(whole), study.question, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 300


def test_judging_reads_every_file_once(tmp_path: Path) -> None:
    items = pictures(tmp_path)
    image = Remembered(processors()["image"])
    world = dataclasses.replace(make_world(judged=items), processors={**processors(), "image": image})
    model = world.model(("text", "image"), 1)
    first = judge(world, model)
    for item in items:
        item.path.unlink()
    assert judge(world, model) == first


def test_sounds_are_judged_by_english_captions(tmp_path: Path) -> None:
    shown = [dataclasses.replace(item, texts={**item.texts, "fr": ["mot " * 200]}) for item in pictures(tmp_path)]
    heard = []
    for number, item in enumerate(shown[: len(CAPTIONS)]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, torch.randn(16_000, generator=torch.Generator().manual_seed(number)).numpy(), 16_000)
        speech = {"track": "speech", "language": "fr", "item": item.id}
        heard.append(dataclasses.replace(item, id=f"fr{number}", kind="audio", path=path, texts={}, **speech))
    world = make_world(judged=[*shown, *heard])
    figures = judge(world, world.model(("text", "image", "audio"), 1))
    assert {"sound -> text, seen speech: R@10", "sound -> image, seen speech: R@10"} <= set(figures)
    assert not any("sound" in name for name in judge(world, world.model(("text", "image"), 1)))


def test_statistics() -> None:
    mean = mean_over_seeds([0.1, 0.2, 0.3])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.2, 0.2 - 0.24841, 0.2 + 0.24841), abs=1e-4)
    gap = difference([1.1, 2.1, 3.1], [1.0, 2.0, 3.0])
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    assert math.isinf(mean_over_seeds([0.5]).low)


def test_auc() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert _auc(scores, torch.tensor([0, 0])) == 1.0
    assert _auc(scores, torch.tensor([2, 2])) == 0.0
    assert _auc(scores, torch.tensor([0, 1])) == 0.75
    assert _auc(torch.zeros(2, 3), torch.tensor([0, 1])) == 0.5


def test_the_studies_own_model_hears_in_whole_spectrogram_columns() -> None:
    world = dataclasses.replace(make_world(), config=Scale().config(vocabulary=300))
    model = world.model(("text", "image", "audio"), 1)
    clips = processors()["audio"].collate([sound for _, sound in tiny_pairs(processors(), "audio")])
    assert model.encoder.embed("audio", clips).shape == (len(CAPTIONS), Scale().width)
    fit_front_end(model.config, processors(), world.batches["sounds"], 1, 0, lambda row: None)
