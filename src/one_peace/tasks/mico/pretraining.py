"""What MiCo learns: texts against tuples of other modalities, by contrast, matching, and words to be predicted.

A task is an objective with the tuples it is computed for. The published code writes them as
`ret%tv%ta%tva_cap%tv%ta%tva`: objectives joined by `_`, tuples by `%`, a letter for each member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from one_peace.models.mico.config import SUBTITLE, branch_of
from one_peace.models.mico.model import ORDER, TEXT, MiCoModel
from one_peace.models.mico.text import PAD_ID, Memory
from one_peace.objectives.contrast import cross_modal_contrast
from one_peace.objectives.masked_words import IGNORED, answer_mask, causal_mask, hidden_word_loss
from one_peace.objectives.matching import draw_negatives, matching_loss, negative_weights

_T = TypeVar("_T")

Objective = Literal["retrieval", "captioning", "answering"]

_OBJECTIVES: dict[str, Objective] = {"ret": "retrieval", "cap": "captioning", "qa": "answering"}
_LETTERS = {"v": "vision", "a": "audio", SUBTITLE[0]: SUBTITLE, "d": "depth", "i": "vision"}
SMOOTHING = 0.1  # of the contrast, over all candidates

Parts = tuple[str, ...]
"""What texts are compared with jointly: branches and subtitles, in the model's order."""


@dataclass(frozen=True)
class MiCoTask:
    """An objective and its tuples. Its loss is the mean over them.

    retrieval: contrast and matching. captioning: a caption's hidden words. answering: an answer's, after its question.
    """

    objective: Objective
    tuples: tuple[Parts, ...]

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {self.objective!r}")
        ordered = tuple(tuple(name for name in ORDER if name in parts) for parts in self.tuples)
        if not self.tuples or any(sorted(a) != sorted(b) or not a for a, b in zip(ordered, self.tuples, strict=True)):
            raise ValueError(f"tuples must be of {', '.join(ORDER)}, each once, got {self.tuples}")
        object.__setattr__(self, "tuples", ordered)


def read_tuples(given: object, where: str) -> tuple[Parts, ...]:
    """Tuples from lists of their members; one alone need not be in a list. ValueError for anything else."""
    listed = list(given) if isinstance(given, list | tuple) else [None]
    made: list[Any] = [[parts] if isinstance(parts, str) else parts for parts in listed]
    if not all(isinstance(parts, list | tuple) and all(isinstance(name, str) for name in parts) for parts in made):
        raise ValueError(f"{where}: lists of branches such as [vision, audio], not {given!r}")
    return tuple(tuple(parts) for parts in made)


def parse_tasks(text: str) -> tuple[MiCoTask, ...]:
    """Tasks as the published code writes them. ValueError says what is not understood."""
    tasks = []
    for entry in text.split("_"):
        name, *tuples = entry.split("%")
        if name not in _OBJECTIVES:
            raise ValueError(f"task {text!r}: unknown objective {name!r}; known: {', '.join(_OBJECTIVES)}")
        for letters in tuples:
            known = letters[:1] == "t" and all(letter in _LETTERS for letter in letters[1:])
            if not known or len(set(letters)) != len(letters) or len(letters) < 2 or {"i", "v"} <= set(letters):
                raise ValueError(f"task {text!r}: {letters!r} is not t followed by some of v (or i), a, s, d")
        tasks.append(MiCoTask(_OBJECTIVES[name], tuple(tuple(_LETTERS[x] for x in t[1:]) for t in tuples)))
    return tuple(tasks)


@dataclass
class HiddenWords:
    """A text with words hidden, and what they were: both (batch, length) int64, as `hide_words` gives them."""

    tokens: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> HiddenWords:
        """The same on a device."""
        return HiddenWords(self.tokens.to(device), self.labels.to(device))


@dataclass
class MiCoBatch:
    """Collated inputs. Rows of all parts belong together.

    inputs: by modality, as `MiCoModel.encode` takes them. captions: token ids (batch, length), padded with 0; one
    under `caption`, or where a clip has a caption of its picture, one of its sound and one of both, those under
    `vision`, `audio` and `joint`. hidden_captions: of the same names. subtitles, questions: token ids. hidden_answers:
    answers with words hidden. Processes that share their negatives pad texts to one length. clips: (batch,) int64, a
    number for each clip: one that stands in several rows is no negative of itself.
    """

    inputs: Mapping[str, Mapping[str, Tensor]]
    captions: Mapping[str, Tensor]
    hidden_captions: Mapping[str, HiddenWords] = field(default_factory=dict)
    subtitles: Tensor | None = None
    questions: Tensor | None = None
    hidden_answers: HiddenWords | None = None
    clips: Tensor | None = None

    def caption_of(self, parts: Parts) -> str:
        """The name of the caption that a tuple is compared with."""
        if "caption" in self.captions:
            return "caption"
        return parts[0] if parts in (("vision",), ("audio",)) else "joint"

    def to(self, device: torch.device) -> MiCoBatch:
        """The batch on a device."""
        return MiCoBatch(
            {name: {key: value.to(device) for key, value in given.items()} for name, given in self.inputs.items()},
            {name: tokens.to(device) for name, tokens in self.captions.items()},
            {name: words.to(device) for name, words in self.hidden_captions.items()},
            None if self.subtitles is None else self.subtitles.to(device),
            None if self.questions is None else self.questions.to(device),
            None if self.hidden_answers is None else self.hidden_answers.to(device),
            None if self.clips is None else self.clips.to(device),
        )


Gather = Callable[[Tensor], Tensor]
"""The rows of all processes (global, ...) for this one's (batch, ...), with gradient."""

Draw = Callable[[Tensor], Tensor]
"""Weights (rows, candidates) -> one candidate for each row, (rows,) int64."""

Count = Callable[[Tensor], Tensor]
"""A number of hidden words (scalar) -> its mean over processes."""


def mico_losses(
    model: MiCoModel,
    batch: MiCoBatch,
    tasks: Sequence[MiCoTask],
    draw: Draw = draw_negatives,
    gather: Gather = lambda rows: rows,
    offset: int = 0,
    count: Count = lambda words: words,
) -> dict[str, Tensor]:
    """Losses (scalars) by name, `contrast`, `matching` (weighted), `captioning`, `answering`, and their sum, `total`.

    Everything is encoded once, whatever number of tuples it is part of.

    Args:
        draw: of negatives; called for the memories first, then for the texts, tuple by tuple.
        gather: of distributed training, where this process's rows begin at `offset`.
        count: of distributed training, so that each hidden word counts alike whichever process has it.
    """
    encoded = _Encoded(model, batch, {part for task in tasks for parts in task.tuples for part in parts})
    alike = None
    if batch.clips is not None and any(task.objective == "retrieval" for task in tasks):
        alike = _same_clip(batch.clips, gather(batch.clips), offset)
    losses: dict[str, list[Tensor]] = {}
    for task in tasks:
        for parts in task.tuples:
            if task.objective == "retrieval":
                contrast, matching = _retrieval(model, encoded, parts, draw, gather, offset, alike)
                losses.setdefault("contrast", []).append(contrast)
                losses.setdefault("matching", []).append(model.config.matching_weight * matching)
            elif task.objective == "captioning":
                name = batch.caption_of(parts)
                hidden = _given(batch.hidden_captions.get(name), f"hidden_captions[{name!r}]")
                seen = causal_mask((batch.captions[name] != PAD_ID).long())
                losses.setdefault("captioning", []).append(_words(model, hidden, seen, encoded.memory(parts), count))
            else:
                losses.setdefault("answering", []).append(_answering(model, batch, encoded.memory(parts), count))
    terms = {name: torch.stack(values).mean() for name, values in losses.items()}
    return terms | {"total": torch.stack(list(terms.values())).sum()}


class _Encoded:
    """Features of a batch, and what is made of them when it is first asked for."""

    def __init__(self, model: MiCoModel, batch: MiCoBatch, parts: set[str]) -> None:
        self.model, self.batch = model, batch
        self.features: dict[str, Tensor] = {}
        self.pooled: dict[str, Tensor] = {}
        self._memories: dict[Parts, tuple[Tensor, Memory]] = {}
        self._texts: dict[str, Tensor] = {}
        for modality, inputs in batch.inputs.items():
            branch = branch_of(modality)
            if branch in self.features:
                raise ValueError(f"two modalities of the branch {branch!r} in one batch: {', '.join(batch.inputs)}")
            if branch in parts:
                self.features[branch] = model.encode(modality, inputs)
                self.pooled[branch] = model.pool(branch, self.features[branch])
        if SUBTITLE in parts:
            tokens = _given(batch.subtitles, "subtitles")
            self.features[SUBTITLE] = model.text(tokens, tokens != PAD_ID)
            self.pooled[SUBTITLE] = self.features[SUBTITLE][:, 0]
        if absent := parts - self.features.keys():
            raise ValueError(f"the batch has nothing for {', '.join(sorted(absent))}")

    def vector(self, parts: Parts) -> Tensor:
        return self.model.project(parts, self.pooled)

    def text_vector(self, caption: str) -> Tensor:
        if caption not in self._texts:
            self._texts[caption] = self.model.embed(TEXT, {"tokens": self.batch.captions[caption]})
        return self._texts[caption]

    def memory(self, parts: Parts) -> Memory:
        return self._remembered(parts)[1]

    def raw_memory(self, parts: Parts) -> Tensor:
        return self._remembered(parts)[0]

    def _remembered(self, parts: Parts) -> tuple[Tensor, Memory]:
        if parts not in self._memories:
            raw = self.model.remember({part: self.features[part] for part in parts})
            self._memories[parts] = raw, self.model.text.project_memory(raw)
        return self._memories[parts]


def _same_clip(clips: Tensor, all_clips: Tensor, offset: int) -> Tensor | None:
    """Which candidates are of a row's clip and not its own partner: (rows, candidates) bool; None where none is."""
    same = clips[:, None] == all_clips
    rows = torch.arange(len(clips), device=clips.device)
    same[rows, offset + rows] = False
    return same if bool(same.any()) else None


def _retrieval(
    model: MiCoModel,
    encoded: _Encoded,
    parts: Parts,
    draw: Draw,
    gather: Gather,
    offset: int,
    alike: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Contrast and matching of one tuple."""
    caption = encoded.batch.caption_of(parts)
    tokens = encoded.batch.captions[caption]
    texts, conditions = encoded.text_vector(caption), encoded.vector(parts)
    all_texts, all_conditions = gather(texts.detach()), gather(conditions.detach())
    # our smoothing leaves out the target's own share, the published one does not
    smoothing = SMOOTHING * (1 - 1 / len(all_texts))
    scale = 1 / model.temperature
    contrast = cross_modal_contrast(conditions, texts, scale, smoothing, all_conditions, all_texts, offset, alike).loss
    with torch.no_grad():
        for_texts = negative_weights(scale * texts @ all_conditions.t(), offset, alike)
        for_conditions = negative_weights(scale * conditions @ all_texts.t(), offset, alike)
    wrong_conditions, wrong_texts = draw(for_texts), draw(for_conditions)
    memory, own = encoded.memory(parts), torch.arange(len(tokens), device=tokens.device)
    all_tokens = gather(tokens)
    if len(all_tokens) > len(tokens):
        wrong = model.text.project_memory(gather(encoded.raw_memory(parts))[wrong_conditions])
        memory = [
            (torch.cat([keys, other_keys, keys]), torch.cat([values, other_values, values]))
            for (keys, values), (other_keys, other_values) in zip(memory, wrong, strict=True)
        ]
    else:  # every memory is here already, as keys and values
        rows = torch.cat([own, wrong_conditions, own])
        memory = [(keys[rows], values[rows]) for keys, values in memory]
    logits = model.match(torch.cat([tokens, tokens, all_tokens[wrong_texts]]), memory)
    matches = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    matches[: len(tokens)] = True
    return contrast, matching_loss(logits, matches)


def _words(model: MiCoModel, hidden: HiddenWords, seen: Tensor, memory: Memory, count: Count) -> Tensor:
    states = model.text(hidden.tokens, seen, memory)
    asked = hidden.labels != IGNORED
    words = asked.sum()
    return hidden_word_loss(model.text.predict(states[asked]), hidden.labels[asked]) * (words / count(words))


def _answering(model: MiCoModel, batch: MiCoBatch, memory: Memory, count: Count) -> Tensor:
    questions, answers = _given(batch.questions, "questions"), _given(batch.hidden_answers, "hidden_answers")
    tokens = torch.cat([questions, answers.tokens], dim=1)
    labels = torch.cat([torch.full_like(questions, IGNORED), answers.labels], dim=1)
    seen = answer_mask((questions != PAD_ID).long(), (answers.tokens != PAD_ID).long())
    return _words(model, HiddenWords(tokens, labels), seen, memory, count)


def _given(value: _T | None, name: str) -> _T:
    if value is None:
        raise ValueError(f"these tasks need a batch with {name}")
    return value
