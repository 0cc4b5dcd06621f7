"""The ONE-PEACE checks of `parity.py` for figures: recall, average precision; and for the moving average."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from one_peace.tasks.classification import MeanAveragePrecision
from one_peace.tasks.metrics import average_precision
from one_peace.tasks.retrieval import measure_recalls
from one_peace.tasks.task import TaskBatch
from one_peace.training.ema import WeightAverage
from parity import Check, Comparison
from parity_files import Fixture


def check_metrics(fixture: Fixture, compare: Comparison) -> None:
    """Recall in both directions, `txt` finds texts for an image, `img` images for a text; average precision."""
    told = fixture.meta["recall"]
    images, texts = fixture["image_logits"], fixture["text_logits"]
    relevant = fixture["image_ids"][:, None] == fixture["text_ids"][None, :]
    ours: dict[str, float] = {"img_count": len(images), "txt_count": len(texts)}
    means = []
    for prefix, given in (("txt", (images, texts, relevant)), ("img", (texts, images, relevant.t()))):
        ranks = [int(found[1]) for name in told if (found := re.fullmatch(rf"{prefix}_r(\d+)", name))]
        recalls = [100 * recall.value for recall in measure_recalls(*given, ranks)]
        ours |= {f"{prefix}_r{rank}": value for rank, value in zip(ranks, recalls, strict=True)}
        ours[f"{prefix}_r_mean"] = sum(recalls) / len(recalls)
        means.append(ours[f"{prefix}_r_mean"])
    ours["r_mean"] = sum(means) / len(means)
    for name, value in told.items():
        compare.feature(name, number(ours[name]), number(value), 1e-4)
    scores, targets = fixture["map_logits"], fixture["map_targets"]
    for label, value in enumerate(fixture["map_ap"]):
        precision = average_precision(scores[:, label], targets[:, label] > 0)
        compare.feature(f"average precision of {label}", number(precision), value.double(), 1e-6)
    figures = MeanAveragePrecision()
    figures.add(scores, TaskBatch([], {}, targets, []))
    compare.feature("their mean", number(figures.result()["map"]), number(fixture.meta["map"]), 1e-6)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def check_average(fixture: Fixture, compare: Comparison) -> None:
    """The published average is a copy of the weights at every update; ours is one until its `start`."""
    updates = sorted({int(name[1:].partition(".")[0]) for name in fixture.tensors if name.startswith("m")})
    names = [name.removeprefix("m0.") for name in fixture.tensors if name.startswith("m0.")]
    copy, average = ({name: fixture[f"m0.{name}"].clone() for name in names} for _ in range(2))
    begin = fixture.meta["start_update"]
    following = WeightAverage(copy.items(), fixture.meta["decay"], start=updates[-1])
    ours = WeightAverage(average.items(), fixture.meta["decay"], start=begin)
    for update in updates[1:]:
        for name in names:
            theirs, weights = fixture[f"ema{update}.{name}"], fixture[f"m{update}.{name}"]
            compare.exact(f"the reference's average {update} is a copy", theirs, weights)
            copy[name].copy_(weights)
            average[name].copy_(weights)
        following.update(update)
        ours.update(update)
        for name in names:
            theirs = fixture[f"ema{update}.{name}"]
            compare.exact(f"average {update} before its start", following.averages[name], theirs)
            if update <= begin:
                compare.exact(f"average {update}", ours.averages[name], theirs)
    if updates[-1] > begin:
        reason = "the published one averages nothing (docs/differences.md)"
        compare.leave_out(f"our average after update {begin}", reason)


CHECKS: dict[str, Check] = {"fixture_x_metrics": check_metrics, "fixture_x_ema": check_average}
