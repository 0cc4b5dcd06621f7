"""How a trained model is judged, and what several seeds say of an arm."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.sample_library import STAMPS, Embedded, Row, embed_items, picture_text_rows, sound_rows
from studies.setting import World

TASKS = ("image -> text", "text -> image", "sound -> text", "sound -> image")  # without what they add in brackets
SUBSETS = {  # of the evaluation, without the number of captions, and here
    "seen captions": "seen",
    "held-out captions": "held out",
    "seen clips": "seen speech",
    "sound effects, seen": "seen effects",
    "sound effects, held out": "held-out effects",
}
SHUFFLES = 20


@dataclass(frozen=True)
class Figure:
    """A measured value and what shuffled pairs give in its place."""

    value: float
    shuffled: float


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with its 95 % interval (Student's t); with one seed the interval is unbounded."""

    value: float
    low: float
    high: float


def judge(world: World, model: OnePeaceForPretraining) -> dict[str, Figure]:
    """Figures by name, `TASK, SUBSET: MEASURE`, from the project's own evaluation on the sample library."""
    names = list(model.config.modalities)
    encoder = OnePeace(model.encoder, {name: world.processors[name] for name in names})
    stamps = [i for i in world.judged if i.kind == "image" and i.source == STAMPS and not i.symbol]
    pictures = embed_items(encoder, stamps)
    rows = picture_text_rows(encoder, pictures)
    sounds = [i for i in world.judged if i.kind == "audio" and not i.heldout_speaker]
    if "audio" in names and sounds:
        # in English, as in training: what is said in another language was never read
        captions = {i.id: {"en": i.texts["en"]} for i in world.judged if i.kind == "image"}
        rows += sound_rows(encoder, pictures, embed_items(encoder, sounds), captions)
    figures = {}
    for side, name in ((lambda i: i.split == "train", "seen"), (lambda i: i.split != "train", "held out")):
        figures[f"image -> text, {name}: AUC"] = caption_auc(encoder, pictures.select(side))
    for row in rows:
        if (shown := _name(row)) is not None:  # among 125 captions comes first, then among all
            figures.setdefault(f"{shown}: R@10", Figure(row.at_10.value, row.at_10.shuffled))
    return figures


def _name(row: Row) -> str | None:
    """What a row is called here. Recall@1 is left out: a few hits of models as small as these."""
    task, subset = row.task.partition(" (")[0], re.sub(r", \d+ captions$", "", row.subset)
    return f"{task}, {SUBSETS[subset]}" if task in TASKS and subset in SUBSETS else None


def caption_auc(model: OnePeace, pictures: Embedded) -> Figure:
    """How often a picture's own caption scores above another one: finer than recall, 0.5 by chance."""
    texts = {i.group: i.texts["en"][0] for i in reversed(pictures.items)}
    groups = list(texts)
    own = torch.tensor([groups.index(i.group) for i in pictures.items])
    scores = pictures.vectors @ model.encode_text(list(texts.values())).t()
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(own), generator=generator) for _ in range(SHUFFLES)]
    return Figure(_auc(scores, own), sum(_auc(scores, own[order]) for order in orders) / SHUFFLES)


def _auc(scores: Tensor, own: Tensor) -> float:
    """scores (pictures, captions), own (pictures,) int64: the column that belongs to each row."""
    hit = scores.gather(1, own[:, None])
    below = (scores < hit).float().sum(dim=1) + 0.5 * ((scores == hit).float().sum(dim=1) - 1)
    return (below / (scores.shape[1] - 1)).mean().item()


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of independent runs, with its 95 % interval."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Mean(mean, -math.inf, math.inf)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1))
    reach = float(student.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    return Mean(mean, mean - reach, mean + reach)


def difference(values: Sequence[float], first: Sequence[float]) -> Mean:
    """Mean difference of two arms, seed by seed: runs of one seed saw the same pairs."""
    return mean_over_seeds([a - b for a, b in zip(values, first, strict=True)])
