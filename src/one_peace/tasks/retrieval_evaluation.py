"""Embedding models on tables: retrieval both ways, and labels that stand in a prompt, without any training on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.modalities.tokenization import clean_caption
from one_peace.models.embedding import CHUNK, EmbeddingModel
from one_peace.models.mico.interface import MiCo
from one_peace.models.one_peace.interface import OnePeace
from one_peace.tasks.held_out import RANKS, label_vectors
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.retrieval import Recall, measure_rankings, measure_recalls, rank_candidates
from one_peace.tasks.retrieval_pairs import RetrievalSet
from one_peace.tasks.task import BadRow, OnError, Row, column, has, text_of, usable

ZERO_SHOT = "zero-shot"  # the kind of task
MATCHED_AT_ONCE = 64  # texts with one medium


@dataclass(frozen=True)
class ZeroShotSettings:
    """Labels by their likeness to prompts with their names. `labels` is a file or a list; each prompt has {} where the
    name goes. A row's label, a name or a number, stands in the first of `label_columns` that holds one. With `by`, a
    column, the accuracy of each value of it is told too (the folds of ESC-50)."""

    kind: str
    labels: str | tuple[str, ...]
    modality: str = "image"
    prompts: str | tuple[str, ...] = ("{}",)
    label_columns: str | tuple[str, ...] = ("label",)
    by: str | None = None

    def __post_init__(self) -> None:
        for key in ("prompts", "label_columns"):
            value = getattr(self, key)
            object.__setattr__(self, key, (value,) if isinstance(value, str) else tuple(value))
        if wrong := [prompt for prompt in self.prompts if prompt.count("{}") != 1]:
            raise ValueError(f"task.prompts: {wrong[0]!r} has not exactly one {{}}, where the label goes")


def measure_retrieval(
    model: EmbeddingModel, asked: RetrievalSet, modality: str, on_error: OnError = "raise", rerank: int = 0
) -> tuple[dict[str, list[Recall]], RetrievalSet]:
    """recall@1, 5 and 10 in both directions -> ({"image_to_text": [...], "text_to_image": [...]}, what was measured).

    Of a sound over the model's limit the beginning counts, as published. With "skip", media that cannot be read are
    left out, and the texts that were right for them alone. With `rerank` the first so many of each ranking are put in
    the order of their matching scores, which the model must give.
    """
    if rerank and not isinstance(model, MiCo):
        raise ValueError("task.rerank needs a model with matching scores, which MiCo models have")
    vectors, unusable = embed_media(model, modality, asked.media, asked.keys, on_error)
    if unusable:
        asked = asked.without(unusable, [str(error) for error in unusable.values()])
    if not asked.media or len(asked.texts) < 2:
        raise InputError(", ".join(asked.left_out)[:500] or "the table", "nothing to measure is left")
    texts = model.encode_text([as_trained(model, text) for text in asked.texts])
    inputs = [{modality: medium} for medium in asked.media]
    return measure_vectors(model, asked, modality, vectors, texts, inputs, rerank), asked


def measure_vectors(
    model: EmbeddingModel,
    asked: RetrievalSet,
    name: str,
    vectors: Tensor,
    texts: Tensor,
    inputs: Sequence[Mapping[str, Any]],
    rerank: int,
) -> dict[str, list[Recall]]:
    """`measure_retrieval` of embeddings: `vectors` (media, dim) of what the figures call `name`, `texts` (texts, dim).
    `inputs` are the media by modality, for matching."""
    count = max(*RANKS, rerank)
    rankings = rank_candidates(vectors, texts, count), rank_candidates(texts, vectors, count)
    if rerank and isinstance(model, MiCo):
        rankings = rerank_by_matching(model, asked.texts, inputs, rankings, rerank)
    return {
        f"{name}_to_text": measure_rankings(rankings[0], asked.relevant, RANKS),
        f"text_to_{name}": measure_rankings(rankings[1], asked.relevant.t().contiguous(), RANKS),
    }


def rerank_by_matching(
    model: MiCo,
    texts: Sequence[str],
    inputs: Sequence[Mapping[str, Any]],
    rankings: tuple[Tensor, Tensor],
    first: int,
) -> tuple[Tensor, Tensor]:
    """Rankings of texts by media and of media by texts, the `first` of each in the order of matching scores.

    `inputs` are the media by modality. Every pair that occurs in either ranking is matched once, medium by medium.
    """
    by_media, by_texts = rankings[0].clone(), rankings[1].clone()
    scores = torch.full((len(inputs), len(texts)), -1.0)
    wanted = torch.zeros_like(scores, dtype=torch.bool)
    wanted.scatter_(1, by_media[:, :first], True)
    wanted |= torch.zeros_like(scores.t(), dtype=torch.bool).scatter_(1, by_texts[:, :first], True).t()
    for number, medium in enumerate(inputs):
        numbers = wanted[number].nonzero().squeeze(1)
        for some in numbers.split(MATCHED_AT_ONCE):
            chosen = [as_trained(model, texts[n]) for n in some.tolist()]
            scores[number, some] = model.match(chosen, **{name: [source] for name, source in medium.items()})[:, 0]
    for ranking, own in ((by_media, scores), (by_texts, scores.t())):
        head = ranking[:, :first]
        order = own.gather(1, head).sort(dim=1, descending=True, stable=True).indices
        ranking[:, :first] = head.gather(1, order)
    return by_media, by_texts


def as_trained(model: EmbeddingModel, text: str) -> str:
    """A text as the model was trained on: cleaned as published for ONE-PEACE, as it is for others."""
    return clean_caption(text) if isinstance(model, OnePeace) else text


@dataclass(frozen=True)
class ZeroShot:
    """recall@1 (the accuracy) and recall@5 among the labels, overall and by group; the share of the commonest label."""

    overall: list[Recall]
    groups: dict[str, list[Recall]]
    commonest: float
    left_out: tuple[str, ...]


def measure_zero_shot(
    model: EmbeddingModel, rows: TaskRows, labels: LabelMap, settings: ZeroShotSettings, on_error: OnError = "raise"
) -> ZeroShot:
    """Every row's picture or sound against all labels."""

    def read(row: Row, key: str) -> tuple[Any, int, str]:
        target = _target(row, labels, settings.label_columns, key)
        group = "" if settings.by is None or settings.by not in row else str(row[settings.by])
        return column(row, settings.modality, key), target, group

    skipped: list[InputError] = []
    found = list(usable(rows, read, on_error, skipped))
    media, targets = [medium for _, (medium, _, _) in found], [target for _, (_, target, _) in found]
    vectors, unusable = embed_media(model, settings.modality, media, [key for key, _ in found], on_error)
    skipped += unusable.values()
    kept = [number for number in range(len(found)) if number not in unusable]
    if not kept:
        raise InputError(str(rows.path), f"has nothing usable; the last row: {skipped[-1]}")
    target = torch.tensor(targets)[kept]
    prompted = [[as_trained(model, prompt.replace("{}", name)) for name in labels.names] for prompt in settings.prompts]
    candidates = label_vectors(torch.stack([model.encode_text(texts) for texts in prompted]))
    relevant = target[:, None] == torch.arange(len(labels))
    members: dict[str, list[int]] = defaultdict(list)
    for place, number in enumerate(kept):
        members[found[number][1][2]].append(place)
    members.pop("", None)
    return ZeroShot(
        measure_recalls(vectors, candidates, relevant, (1, 5)),
        {
            name: measure_recalls(vectors[places], candidates, relevant[places], (1, 5))
            for name, places in sorted(members.items())
        },
        float(torch.bincount(target).max()) / len(target),
        tuple(map(str, skipped)),
    )


def embed_media(
    model: EmbeddingModel, modality: str, media: Sequence[Any], keys: Sequence[str], on_error: OnError
) -> tuple[Tensor, dict[int, InputError]]:
    """Unit-length embeddings of those that can be read, in order, and by number the errors of those that cannot.

    `BadRow` names the first one that cannot be read, unless they are skipped.
    """
    parts: list[Tensor] = [torch.empty(0, model.dim)]
    errors: dict[int, InputError] = {}
    for start in range(0, len(media), CHUNK):
        made = model.encode_modality(modality, list(media[start : start + CHUNK]), on_error="skip", whole=False)
        for place, error in made.errors.items():
            bad = BadRow(keys[start + place], f"column {modality!r}: {error.problem}")
            if on_error == "raise":
                raise bad from error
            errors[start + place] = bad
        parts.append(made.vectors)
    return torch.cat(parts), errors


def _target(row: Mapping[str, Any], labels: LabelMap, columns: Sequence[str], key: str) -> int:
    """The number of a row's label."""
    problems = []
    for name in columns:
        if has(row, name):
            try:
                return labels.find(text_of(row, name, key))
            except ValueError as error:
                problems.append(f"column {name!r}: {error}")
    raise BadRow(key, "; ".join(problems) or f"has no label in any of {', '.join(columns)}")
