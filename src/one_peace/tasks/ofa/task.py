"""What a kind of sequence task is, and what the kinds share: the vocabulary, pictures, cleaning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from one_peace.generation.constraints import NOWHERE, ROOT, Constraint, Trie
from one_peace.generation.settings import GenerationSettings
from one_peace.media.pictures import HALVES, IMAGENET, decode_picture, pixels_of
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from one_peace.tasks.ofa.example import SequenceExample
from one_peace.tasks.ofa.figures import LikelihoodFigures, WrittenFigures
from one_peace.tasks.task import BadRow, Row, column, prepare, text_of


@dataclass(frozen=True)
class PictureForm:
    """How a picture becomes pixels: stretched to `size` x `size`; normalised to [-1, 1], or by ImageNet's
    statistics."""

    size: int = 480
    imagenet: bool = False

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, size, size) float32."""
        return self.normalised(image.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def normalised(self, image: Image.Image) -> Tensor:
        """(3, height, width) float32 of a picture as it stands."""
        mean, deviation = IMAGENET if self.imagenet else HALVES
        pixels = pixels_of(image).to(torch.float32).div_(255)
        return pixels.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(deviation).view(3, 1, 1)).contiguous()


PICTURES = PictureForm()  # of fine-tuning


class SequenceTask(ABC):
    """One kind of task: rows of a table -> examples; tokens that a model writes -> figures, predictions.

    reads: the only input of an example, None where there are several. writing: how an answer is searched for, as
    published; None for kinds without a right answer, which are measured by the likelihood of their targets. codes:
    whether targets are image codes alone. first_token: whether an answer is told by its first token, which alone is
    trained. choices: all that may be answered, where the kind itself knows.
    """

    columns: ClassVar[tuple[str, ...]]
    target_columns: ClassVar[tuple[str, ...]] = ()  # as of `Task`
    reads: ClassVar[str | None] = None
    writing: ClassVar[GenerationSettings | None] = None
    codes: ClassVar[bool] = False
    first_token: ClassVar[bool] = False
    choices: tuple[str, ...] = ()

    def __init__(self, vocabulary: OfaVocabulary, pictures: PictureForm = PICTURES) -> None:
        self.vocabulary, self.pictures = vocabulary, pictures

    @abstractmethod
    def example(self, row: Row, key: str) -> SequenceExample:
        """A row as an example, without a target where the row has none. `BadRow` names what is wrong with it."""

    def measurable(self, example: SequenceExample) -> bool:
        """Whether an answer to an example can be judged."""
        return bool((example.target != PAD_ID).any())

    def measured(self, row: Row, key: str) -> SequenceExample:
        """A row as an example to be measured on: `BadRow` too where its answer cannot be judged."""
        made = self.example(row, key)
        if not self.measurable(made):
            raise BadRow(key, f"has no target to be measured against; its columns are {', '.join(row)}")
        return made

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        """A row as an example of this time, for those that differ from time to time. Errors as of `example`."""
        return self.example(row, key)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        """A fresh accumulator. `answers` are all that may be given, where that is known."""
        return LikelihoodFigures(answers)

    def search(self, longest: int) -> GenerationSettings:
        """How an answer is searched for; of at most `longest` tokens where the kind has no limit of its own."""
        return self.writing or GenerationSettings(EOS_ID, PAD_ID, max_tokens=longest)

    def constraint(self, answers: Sequence[str]) -> Constraint | None:
        """Which tokens may be written. `answers` as of `figures`."""
        return self.trie(answers) if answers and self.writing else None

    def value(self, tokens: Sequence[int]) -> Any:
        """What is written, tokens without the end, as figures take it: a text, unless the kind says otherwise."""
        return self.vocabulary.decode(tokens).strip()

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        """What to tell the user of an answer."""
        return {"text": value}

    def picture(self, row: Row, key: str) -> Image.Image:
        """The row's `image`, decoded."""
        decoded: list[Image.Image] = []

        def decode(value: object) -> dict[str, Tensor]:
            decoded.append(decode_picture(value))  # type: ignore[arg-type]
            return {}

        prepare(decode, column(row, "image", key), "image", key)
        return decoded[0]

    def trie(self, answers: Sequence[str]) -> Trie:
        """The answers that may be written, each behind a blank."""
        return Trie([self.vocabulary.encode(f" {answer}") for answer in answers], EOS_ID)


def check_taught(example: SequenceExample, longest: int) -> None:
    """Whether the model can learn from an example. `BadRow` where it has no target, one that is not among the answers
    that may be given, or more than `longest` tokens of text on a side."""
    if not bool((example.target != PAD_ID).any()):
        raise BadRow(example.key, "has no target to learn or to be measured against")
    check_length("source", example.source, example.key, longest)
    if not example.codes:
        check_length("target", example.previous, example.key, longest)
    if example.answers is not None:
        node = torch.tensor([ROOT])
        for token in example.target[example.target != PAD_ID]:
            node = example.answers.follow(node, token[None])
        if int(node) == NOWHERE:
            raise BadRow(example.key, "its answer is none of those that may be given")


def check_length(side: str, tokens: Sized, key: str, longest: int) -> None:
    """`BadRow` where a side of an example has more than `longest` tokens."""
    if len(tokens) > longest:
        raise BadRow(key, f"its {side} has {len(tokens)} tokens, of which {longest} can be read")


def cleaned(row: Row, name: str, key: str, max_words: int, *, caption: bool = True) -> str:
    """The text of a column as published (`clean_text`), of which something must be left."""
    text = clean_text(text_of(row, name, key), max_words, caption=caption)
    if not text:
        raise BadRow(key, f"column {name!r} has nothing in it but punctuation")
    return text
