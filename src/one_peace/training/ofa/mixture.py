"""OFA's pretraining mixture: rows of captions, questions and boxes in a first batch, and beside every eighth, in
a second one, two texts and a picture to fill in and a picture to name the objects of (published data reader)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from one_peace.data.boxed_pictures import BoxedPicture, crop_around, jitter_scale, mirror, resize
from one_peace.data.dropped import Collect, alone
from one_peace.data.published.conversion import read_json
from one_peace.data.rand_augment import OFA_OPERATIONS, rand_augment
from one_peace.data.task_rows import JoinedRows, TaskRows
from one_peace.errors import InputError
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.given_answers import answer_scores
from one_peace.tasks.grounding import parse_box
from one_peace.tasks.ofa.example import SequenceExample
from one_peace.tasks.ofa.infilling import ImageInfilling, TextInfilling
from one_peace.tasks.ofa.pretraining import DOUBLED, Corpus, Mixture
from one_peace.tasks.ofa.task import PictureForm, check_taught
from one_peace.tasks.task import BadDraw, Row, has, text_of, texts_of
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import DrawingReader, Examples
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.ofa.update import Groups

PRETRAINING = "pretraining"  # the kind of task
FIRST, SECOND = "first", "second"
EVERY = 8  # rows of the first batch for one of the second
COUNTS = {"texts": 2, "pictures": 1, "objects": 1}  # examples that go with it
LARGEST, SMALLEST_SIDE = 1.75, 1.25  # of the shorter side before the crop, of the crop's: published 672, 480 and 384


class MixtureReader(DrawingReader[list[SequenceExample]]):
    """Rows as the examples that they give: a caption and a match, an answer and a match, a box and its caption."""

    def __init__(self, task: Mixture, longest: int) -> None:
        self.task, self.longest = task, longest

    def draw(self, row: Row, key: str, generator: torch.Generator) -> list[SequenceExample]:
        size = self.task.pictures.size
        task = self.task.seen_through(partial(_view, size, generator), partial(_box_view, size, generator))
        made = task.examples(row, key, generator)
        for example in made:
            check_taught(example, self.longest)
        return made


class ObjectReader(DrawingReader[SequenceExample]):
    """Pictures whose objects are named with their boxes. Rows have `image` and `objects`: x0,y0,x1,y1,label joined by
    `&&`."""

    columns = ("image", "objects")

    def __init__(self, task: Mixture, longest: int) -> None:
        self.task, self.longest = task, longest

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        boxes, labels = [], []
        for entry in texts_of(row, "objects", key):
            *corners, label = entry.split(",", 4)
            boxes.append(parse_box(",".join(corners), key, "objects"))
            labels.append(label.strip())
        picture = BoxedPicture(self.task.picture(row, key), torch.stack(boxes), tuple(labels))
        if torch.rand((), generator=generator) < 0.5:
            picture = mirror(picture)
        picture = jitter_scale(picture, self.task.pictures.size, (1.0, 1.5), generator)
        if not len(picture.boxes):
            raise BadDraw(key, "none of its objects is left in the piece that was cut out")
        made = self.task.detection(picture, key)
        check_taught(made, self.longest)
        return made


@dataclass(frozen=True)
class Doubled(DrawingReader[SequenceExample]):
    """Examples of the second batch, whose tokens count twice."""

    task: TextInfilling | ImageInfilling
    longest: int

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        made = dataclasses.replace(self.task.draw(row, key, generator), confidence=DOUBLED)
        check_taught(made, self.longest)
        return made


class MixedExamples:
    """The examples of an update of pretraining, from the rows of the first batch and the tables of the second."""

    def __init__(
        self, rows: Examples[list[SequenceExample]], second: Mapping[str, Examples[SequenceExample]], size: int
    ) -> None:
        """`size`: pixels of the second batch's pictures."""
        self.rows, self.second, self.size = rows, second, size

    def __len__(self) -> int:
        return len(self.rows)

    def groups(self, size: int, processes: Processes, step: int) -> Groups:
        """This process's examples in update `step` (from 0)."""
        drawn = self.rows.batch(size, step, processes.rank, processes.count)
        if processes.count > 1 and len(drawn) % EVERY:
            raise ValueError(
                f"of several processes each needs a multiple of {EVERY} rows, not {len(drawn)}: batch_size"
            )
        first = step * size + processes.rank * len(drawn)
        groups = {FIRST: [example for row in drawn for example in row]}
        places = [place // EVERY for place in range(first, first + len(drawn)) if place % EVERY == 0]
        beside = [
            self.second[name].at(place * count + number)
            for place in places
            for name, count in COUNTS.items()
            if name in self.second
            for number in range(count)
        ]
        return groups | ({SECOND: beside} if beside else {})

    def summary(self, collect: Collect = alone) -> str | None:
        """What all processes left out so far, None for nothing."""
        told = [text for examples in (self.rows, *self.second.values()) if (text := examples.summary(collect))]
        return "; ".join(told) or None


def mixed_examples(
    recipe: FinetuneRecipe,
    rows: TaskRows | JoinedRows,
    vocabulary: OfaVocabulary,
    config: OfaConfig,
    mixture: Mapping[str, Any],
    cache: Path,
) -> MixedExamples:
    """The mixture that a recipe's task asks for: `mixed` has the tables of the second batch by what is in them (texts,
    pictures, objects), `negatives` a folder of the published lists of wrong captions, objects and answers; without it
    the wrong ones are those of other rows.

    Raises:
        InputError: a table or list that cannot be used.
        ValueError: an unknown name, or pictures that are larger than boxes reach.
    """
    mixed = mixture.get("mixed") or {}
    if not isinstance(mixed, Mapping) or not all(isinstance(table, str) for table in mixed.values()):
        raise ValueError(f"task.mixed has tables by {', '.join(COUNTS)}; not {mixed!r}")
    if unknown := [name for name in mixed if name not in COUNTS]:
        raise ValueError(f"task.mixed has tables by {', '.join(COUNTS)}; not by {unknown[0]!r}")
    negatives = mixture.get("negatives")
    if not isinstance(negatives, str | None):
        raise ValueError(f"task.negatives is a folder of lists, not {negatives!r}")
    corpus = corpus_of(rows) if negatives is None else published_corpus(recipe.tables.path(negatives))
    longest = config.longest_text
    task = Mixture(vocabulary, corpus, pictures=PictureForm(config.image_size))
    first = Examples(rows, MixtureReader(task, longest), recipe.seed, workers=recipe.workers)
    # The middle of a picture has half its width: as many codes as the model writes, of 8 pixels each.
    small = PictureForm(2 * 8 * config.code_grid)
    vocabulary.check_boxes(max(config.image_size, small.size if "objects" in mixed else 0))
    readers: dict[str, Any] = {
        "texts": Doubled(TextInfilling(vocabulary, vocabulary.tokenizer.whole_word_starts, longest), longest),
        "pictures": Doubled(ImageInfilling(vocabulary, config.code_grid**2, small), longest),
        "objects": ObjectReader(Mixture(vocabulary, corpus, pictures=small), longest),
    }
    columns = {"texts": ("text",), "pictures": ("image", "codes"), "objects": ObjectReader.columns}
    second = {
        name: Examples(recipe.tables.open(table, columns[name], cache), readers[name], recipe.seed + 1)
        for name, table in mixed.items()
    }
    return MixedExamples(first, second, small.size)


def corpus_of(rows: TaskRows | JoinedRows) -> Corpus:
    """Wrong captions, objects and answers from a table's own rows. Types of answers are those of the published lists
    that can be told from the answer: numbers, yes and no, all others."""
    captions: set[str] = set()
    objects: set[str] = set()
    answers: dict[str, set[str]] = {"number": set(), "yes/no": set(), "other": set()}
    for index in range(len(rows)):
        try:
            key, row = rows.row(index)
            scores = answer_scores(row, key) or {}
            captions |= {text_of(row, "caption", key)} if has(row, "caption") else set()
            objects |= set(texts_of(row, "objects", key)) - {""} if has(row, "objects") else set()
        except InputError:  # told of when it is its turn in training
            continue
        for answer in scores:
            kind = "number" if answer.isdecimal() else "yes/no" if answer in ("yes", "no") else "other"
            answers[kind].add(answer)
    answers["other"] = answers["other"] or {answer for known in answers.values() for answer in known} or {"nothing"}
    return Corpus(sorted(captions) or [""], sorted(objects), {k: sorted(v) for k, v in answers.items() if v})


def published_corpus(folder: Path) -> Corpus:
    """`all_captions.txt`, `object.txt` (a line each) and `type2ans.json` (answers by their type)."""
    answers = read_json(folder, "type2ans.json")
    if not isinstance(answers, dict):
        raise InputError(str(folder / "type2ans.json"), "is no mapping from types to answers")
    return Corpus(_lines(folder / "all_captions.txt"), _lines(folder / "object.txt"), answers)


def _lines(path: Path) -> Sequence[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read: {error}") from error


def _view(size: int, generator: torch.Generator, image: Image.Image) -> Image.Image:
    """A picture at a random scale, its middle, and RandAugment."""
    picture = _scaled(BoxedPicture(image, torch.zeros(0, 4)), size, generator).image
    left, top = (round((side - size) / 2) for side in picture.size)
    return rand_augment(picture.crop((left, top, left + size, top + size)), generator, operations=OFA_OPERATIONS)


def _box_view(size: int, generator: torch.Generator, picture: BoxedPicture) -> BoxedPicture:
    """A picture at a random scale, and the piece around its box."""
    return crop_around(_scaled(picture, size, generator), size, size)


def _scaled(picture: BoxedPicture, size: int, generator: torch.Generator) -> BoxedPicture:
    short = int(torch.randint(size, int(size * SMALLEST_SIDE) + 1, (), generator=generator))
    return resize(picture, short, int(size * LARGEST))
