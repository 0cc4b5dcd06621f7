"""The pretraining mixture: what a row of each type gives (OFA, section 3.3 and the published data reader)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from one_peace.data.boxed_pictures import BoxedPicture
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from one_peace.tasks.given_answers import answer_scores
from one_peace.tasks.grounding import parse_box
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.task import PictureForm, SequenceTask, cleaned
from one_peace.tasks.task import BadRow, Row, column, has, text_of, texts_of

MAX_SOURCE, MAX_TARGET = 80, 30  # words
DOUBLED = 2.0  # weight of the second batch's tokens
_POSITIVE, _REPLACED = 0.5, 0.6  # from which a draw makes a pair right, an object another one
_NOISY = "cc12m"  # a data set whose captions do not begin as captions do: their first two tokens are not trained

View = Callable[[Image.Image], Image.Image]
BoxView = Callable[[BoxedPicture], BoxedPicture]


@dataclass(frozen=True)
class Corpus:
    """Where wrong captions and answers are drawn from: all captions, names of objects, answers by their type."""

    captions: Sequence[str]
    objects: Sequence[str]
    answers: Mapping[str, Sequence[str]]
    types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.captions or not self.answers.get("other"):
            raise ValueError("a corpus needs captions, and answers of the type 'other'")
        if not self.types:
            object.__setattr__(self, "types", {a: kind for kind, answers in self.answers.items() for a in answers})


PRETRAINING_PICTURES = PictureForm(384)


class Mixture(SequenceTask):
    """Rows have `image`, `type` and, by type: `caption` (caption; visual_grounding with `region_coord`), or `question`
    with `refs`, `answers` or `answer` (qa); `objects` joined by `&&` and `dataset` where known."""

    columns = ("image", "type")

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        corpus: Corpus,
        view: View = lambda image: image,
        box_view: BoxView = lambda picture: picture,
        pictures: PictureForm = PRETRAINING_PICTURES,
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.corpus, self.view, self.box_view = corpus, view, box_view

    def example(self, row: Row, key: str) -> SequenceExample:
        """The first of `examples`: captioning, question answering or grounding."""
        return self.examples(row, key, torch.Generator().manual_seed(0))[0]

    def examples(self, row: Row, key: str, generator: torch.Generator) -> list[SequenceExample]:
        """What a row gives to the first batch of an update: two examples."""
        kinds = {"caption": self._caption, "qa": self._question, "visual_grounding": self._grounding}
        kind = text_of(row, "type", key)
        if kind not in kinds:
            raise BadRow(key, f"column 'type': {kind!r:.60} is none of {', '.join(kinds)}")
        return kinds[kind](row, key, generator)

    def seen_through(self, view: View, box_view: BoxView) -> Mixture:
        """The same with other views of pictures, as they are drawn each time."""
        return Mixture(self.vocabulary, self.corpus, view, box_view, self.pictures)

    def detection(self, picture: BoxedPicture, key: str) -> SequenceExample:
        """What is in a picture of the second batch, and where: its boxes with their labels, in order."""
        if len(picture.boxes) != len(picture.labels):
            raise ValueError(f"{len(picture.boxes)} boxes do not go with {len(picture.labels)} labels")
        ids: list[int] = []
        for box, label in zip(picture.boxes, picture.labels, strict=True):
            ids += self.vocabulary.boxes_to_ids(box).tolist() + self.vocabulary.encode(f" {label}")
        source = self.vocabulary.encode(prompts.DETECT)
        pixels = self.pictures.normalised(picture.image)
        return SequenceExample(key, pixels=pixels, confidence=DOUBLED, **with_target(source, ids))

    def _caption(self, row: Row, key: str, generator: torch.Generator) -> list[SequenceExample]:
        pixels = self.pictures(self.view(self.picture(row, key)))
        caption = cleaned(row, "caption", key, MAX_TARGET)
        parts = with_target(self.vocabulary.encode(prompts.DESCRIBE), self.vocabulary.encode(f" {caption}"))
        if row.get("dataset") == _NOISY:
            target = parts["target"]
            target[:2] = torch.where(target[:2] == EOS_ID, target[:2], PAD_ID)
        right = self._draw(generator) >= _POSITIVE
        shown = caption if right else self._wrong_caption(caption, row, key, generator)
        matching = self._yes_no(prompts.MATCH.format(shown), right)
        return [
            SequenceExample(f"{key}: caption", pixels=pixels, **parts),
            SequenceExample(f"{key}: matching", pixels=pixels, facts={"right": right}, **matching),
        ]

    def _question(self, row: Row, key: str, generator: torch.Generator) -> list[SequenceExample]:
        pixels = self.pictures(self.view(self.picture(row, key)))
        question = cleaned(row, "question", key, MAX_SOURCE, caption=False)
        scores = answer_scores(row, key)
        if not scores:
            raise BadRow(key, "has no answer")
        answer, confidence = max(scores.items(), key=lambda item: item[1])
        parts = with_target(self.vocabulary.encode(f" {question}"), self.vocabulary.encode(f" {answer}"))
        right = self._draw(generator) >= _POSITIVE
        shown = answer if right else self._wrong_answer(question, answer, confidence, generator)
        matching = self._yes_no(prompts.VERIFY.format(question, shown), right)
        return [
            SequenceExample(f"{key}: answer", pixels=pixels, confidence=confidence, **parts),
            SequenceExample(
                f"{key}: matching", pixels=pixels, confidence=confidence, facts={"right": right}, **matching
            ),
        ]

    def _grounding(self, row: Row, key: str, generator: torch.Generator) -> list[SequenceExample]:
        box = parse_box(column(row, "region_coord", key), key)
        picture = self.box_view(BoxedPicture(self.picture(row, key), box[None]))
        ratios = torch.tensor([self.pictures.size / side for side in picture.image.size])
        corners = self.vocabulary.boxes_to_ids(picture.boxes[0] * ratios.repeat(2)).tolist()
        pixels = self.pictures(picture.image)
        phrase = cleaned(row, "caption", key, MAX_TARGET)
        where = self.vocabulary.encode(prompts.LOCATE.format(phrase))
        what = [*self.vocabulary.encode(prompts.NAME_REGION), *corners]
        return [
            SequenceExample(f"{key}: grounding", pixels=pixels, **with_target(where, corners)),
            SequenceExample(f"{key}: region", pixels=pixels, **with_target(what, self.vocabulary.encode(f" {phrase}"))),
        ]

    def _yes_no(self, prompt: str, right: bool) -> dict[str, Any]:
        return with_target(self.vocabulary.encode(prompt), self.vocabulary.encode(" yes" if right else " no"))

    def _wrong_caption(self, caption: str, row: Row, key: str, generator: torch.Generator) -> str:
        """With objects in the caption often the same one with another object, otherwise another caption."""
        listed = texts_of(row, "objects", key) if has(row, "objects") else []
        named = [name for name in listed if name and name in caption]
        others = [name for name in self.corpus.objects if name not in named]
        if named and others and self._draw(generator) > _REPLACED:
            return caption.replace(self._pick(named, generator), self._pick(others, generator))
        wrong = clean_text(self._pick(self.corpus.captions, generator), MAX_TARGET)
        return wrong if wrong != caption else clean_text(self.corpus.captions[-1], MAX_TARGET)

    def _wrong_answer(self, question: str, answer: str, confidence: float, generator: torch.Generator) -> str:
        """Of the same type where the answer is sure: a number beside the right one, or any other; otherwise any
        answer."""
        draw = self._draw(generator)
        kind = self.corpus.types.get(answer)
        if kind is not None and confidence > draw + 0.1:
            if question.startswith("how many") and answer.isdecimal() and draw > 0.5:
                # Published: one less than none is -1, because a text is compared with a number there.
                if self._draw(generator) < 0.5 and answer != "0":
                    return str(max(0, int(answer) - 1))
                return str(int(answer) + 1)
            choices = self.corpus.answers[kind]
        else:
            choices = self.corpus.answers["other"]
        wrong = self._pick(choices, generator)
        return wrong if wrong != answer else choices[-1]

    def _draw(self, generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator))

    def _pick(self, choices: Sequence[str], generator: torch.Generator) -> str:
        return choices[int(torch.randint(len(choices), (), generator=generator))]
