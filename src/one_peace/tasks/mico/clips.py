"""From rows of clips to batches for MiCo's objectives: what is read, which words are hidden, how texts are padded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.wordpiece import WordPieceProcessor, WordPieces
from one_peace.models.mico.config import SUBTITLE, MiCoConfig, branch_of
from one_peace.models.mico.model import TEXT
from one_peace.models.mico.writing import ANSWER_TOKENS
from one_peace.objectives.masked_words import ANSWER_RATIO, CAPTION_RATIO, IGNORED, hide_words
from one_peace.tasks.mico.pretraining import HiddenWords, MiCoBatch, MiCoTask
from one_peace.tasks.task import BadRow, Row, column, prepare, text_of, texts_of
from one_peace.training.finetuning.examples import DrawingReader

CAPTION_COLUMNS = ("desc", "caption", "text")  # the first that a row has
KINDS = {"vision": "vision_captions", "audio": "audio_captions", "joint": "omni_captions"}  # as VAST-27M has them
SPECIAL = 3  # ids after the mask token that never stand in for a hidden word: 103 and below 106, as published


@dataclass
class MiCoExample:
    """One clip: inputs by modality, tokens (length,) int64 of its texts and, of those to be predicted, with labels.

    `key` names its row.
    """

    key: str
    inputs: dict[str, Example]
    captions: dict[str, Tensor]
    hidden_captions: dict[str, HiddenWords]
    subtitle: Tensor | None = None
    question: Tensor | None = None
    hidden_answer: HiddenWords | None = None


class ClipReader(DrawingReader[MiCoExample]):
    """Rows with the columns of `modalities` and a caption, as some tasks need them.

    Of several captions or answers (a list, or joined by `&&`), or several clips of one row, one is drawn. With `kinds`
    a row has captions of its picture, of its sound and of both (`vision_captions`, `audio_captions`, `omni_captions`).
    Tasks with subtitles read `subtitle`, tasks that answer `question` and `answer`. `strength` is that of augmentation.
    """

    def __init__(
        self,
        processors: Mapping[str, Processor],
        config: MiCoConfig,
        modalities: Sequence[str],
        tasks: Sequence[MiCoTask],
        *,
        kinds: bool = False,
        strength: float = 1.0,
    ) -> None:
        words = processors[TEXT]
        if not isinstance(words, WordPieceProcessor):
            raise ValueError("MiCo is trained on texts, and there is no vocabulary: give tokenizer=FILE")
        lacking = [name for name in modalities if name not in processors]
        if lacking:
            raise ValueError(f"the model has no modality {lacking[0]!r}; it has {', '.join(processors)}")
        check_tasks(tasks, modalities)
        self.processors, self.config, self.words = processors, config, words.pieces
        self.modalities, self.kinds, self.strength = tuple(modalities), kinds, strength
        self.objectives = {task.objective for task in tasks}
        self.with_subtitles = any(SUBTITLE in parts for task in tasks for parts in task.tuples)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a table must have."""
        return self.modalities

    def draw(self, row: Row, key: str, generator: torch.Generator) -> MiCoExample:
        if clips := row.get("clips"):
            row = clips[int(torch.randint(len(clips), (), generator=generator))]
        hidden = random.Random(int(torch.randint(2**62, (), generator=generator)))
        captions = {
            name: self._tokens(_one_of(texts, generator), self._limit(name), key)
            for name, texts in self._captions(row, key).items()
        }
        example = MiCoExample(key, {}, captions, {})
        if "captioning" in self.objectives:
            example.hidden_captions = {name: self._hide(t, CAPTION_RATIO, hidden) for name, t in captions.items()}
        if self.with_subtitles:
            example.subtitle = self._tokens(text_of(row, "subtitle", key), self.config.max_subtitle_tokens, key)
        if "answering" in self.objectives:
            example.question = self._tokens(text_of(row, "question", key), self.config.max_caption_tokens, key)
            answer = self._tokens(_one_of(_texts(row, "answer", key), generator), ANSWER_TOKENS, key)
            example.hidden_answer = self._hide(answer, ANSWER_RATIO, hidden)
        for name in self.modalities:
            example.inputs[name] = self._input(name, column(row, name, key), key, generator)
        return example

    def collate(self, examples: Sequence[MiCoExample], whole: bool = False) -> MiCoBatch:
        """A batch; texts are padded to the longest, or with `whole` to the limits, which all processes share."""

        def padded(rows: Sequence[Tensor | None], limit: int, value: int = 0, to_limit: bool = whole) -> Tensor:
            given = [row for row in rows if row is not None]
            length = limit if to_limit else max(len(row) for row in given)
            filled = torch.full((len(given), length), value)
            for number, row in enumerate(given):
                filled[number, : len(row)] = row
            return filled

        def words(rows: Sequence[HiddenWords], limit: int) -> HiddenWords:
            return HiddenWords(
                padded([row.tokens for row in rows], limit), padded([row.labels for row in rows], limit, IGNORED)
            )

        first = examples[0]
        return MiCoBatch(
            {name: self.processors[name].collate([e.inputs[name] for e in examples]) for name in first.inputs},
            {name: padded([e.captions[name] for e in examples], self._limit(name)) for name in first.captions},
            {
                name: words([e.hidden_captions[name] for e in examples], self._limit(name))
                for name in first.hidden_captions
            },
            padded([e.subtitle for e in examples], self.config.max_subtitle_tokens) if self.with_subtitles else None,
            None
            if first.question is None
            # an answer stands at the same place whatever the question, as published
            else padded([e.question for e in examples], self.config.max_caption_tokens, to_limit=True),
            None
            if first.hidden_answer is None
            else words([e.hidden_answer for e in examples if e.hidden_answer is not None], ANSWER_TOKENS),
            torch.tensor([_number(e.key) for e in examples]),
        )

    def _limit(self, caption: str) -> int:
        return self.config.max_joint_caption_tokens if caption == "joint" else self.config.max_caption_tokens

    def _captions(self, row: Row, key: str) -> dict[str, list[str]]:
        if self.kinds:
            return {name: _texts(row, kind, key) for name, kind in KINDS.items()}
        return {"caption": captions_of(row, key)}

    def _tokens(self, text: str, limit: int, key: str) -> Tensor:
        ids = self.words.encode(text, limit)
        if len(ids) < 3:
            raise BadRow(key, f"the text {text!r:.60} has no words in it")
        return torch.tensor(ids)

    def _hide(self, tokens: Tensor, ratio: float, draw: random.Random) -> HiddenWords:
        return hide_tokens(tokens, ratio, draw, self.words)

    def _input(self, name: str, value: Any, key: str, generator: torch.Generator) -> Example:
        processor = self.processors[name]
        if not self.strength:
            return prepare(processor, value, name, key)
        try:
            return processor.augmented(value, generator, self.strength)
        except InputError as error:
            raise BadRow(key, f"column {name!r}: {error.problem}") from error


def _number(key: str) -> int:
    """A number of 64 bits for the key of a row, the same in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def hide_tokens(tokens: Tensor, ratio: float, draw: random.Random, pieces: WordPieces) -> HiddenWords:
    """Hidden words of one text (length,)."""
    words = range(pieces.mask_id + SPECIAL, pieces.vocab_size)
    shown, labels = hide_words(tokens[None], ratio, draw, mask_id=pieces.mask_id, words=words)
    return HiddenWords(shown[0], labels[0])


def check_tasks(tasks: Sequence[MiCoTask], modalities: Sequence[str]) -> None:
    """ValueError where tasks need a branch that no modality takes, or two modalities take the same."""
    branches = [branch_of(name) for name in modalities]
    if len(set(branches)) < len(branches):
        raise ValueError(f"{' and '.join(modalities)}: two of them take the same branch of the model")
    needed = {part for task in tasks for parts in task.tuples for part in parts} - {SUBTITLE}
    if absent := sorted(needed - set(branches)):
        raise ValueError(f"the tasks need {', '.join(absent)}, and the modalities are {', '.join(modalities)}")


def captions_of(row: Row, key: str) -> list[str]:
    """The captions of a row, of whatever it shows."""
    known = (*CAPTION_COLUMNS, *reversed(KINDS.values()))
    name = next((name for name in known if row.get(name)), None)
    if name is None:
        raise BadRow(key, f"has no caption: none of {', '.join(CAPTION_COLUMNS)}")
    return _texts(row, name, key)


def _texts(row: Row, name: str, key: str) -> list[str]:
    texts = texts_of(row, name, key)
    if not texts or not all(texts):
        raise BadRow(key, f"column {name!r} has an empty text")
    return texts


def _one_of(texts: Sequence[str], generator: torch.Generator) -> str:
    return texts[int(torch.randint(len(texts), (), generator=generator))]
