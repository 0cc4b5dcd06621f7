"""What MiCo writes, against what people wrote: captions of anything it reads, and answers to questions about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from one_peace.configuration import within
from one_peace.data.manifest import normalise_caption
from one_peace.data.permutation import mix
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.models.mico.config import BRANCH_OF
from one_peace.models.mico.interface import MiCo
from one_peace.tasks.caption_metrics.figures import caption_figures
from one_peace.tasks.retrieval_pairs import RetrievalSet
from one_peace.tasks.task import BadRow, OnError, Row, column, text_of, texts_of, usable

WRITING = "writing"  # the kinds of task
ANSWERING = "answering"
AT_ONCE = 8  # inputs
SEED = 3407  # of the control


@dataclass(frozen=True)
class WritingSettings:
    """Captions, or answers in a few words, by beam search. `modality` is what is read; `beams` and `max_tokens` are the
    model's own by default, and of answers 10 tokens."""

    kind: str
    modality: str = "image"
    beams: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.modality not in BRANCH_OF:
            raise ValueError(f"task.modality is one of {', '.join(BRANCH_OF)}, not {self.modality!r}")
        within(self, "task", beams="[1, inf)", max_tokens="[1, inf)")


@dataclass(frozen=True)
class Written:
    """Figures, the same with every input's text held against another input's references, and against the one text that
    serves best (answers alone); how many inputs, and what could not be used. Of one input there is no other to hold
    against."""

    figures: dict[str, float]
    shuffled: dict[str, float]
    constant: float | None
    examples: int
    left_out: tuple[str, ...]


def measure_captions(model: MiCo, asked: RetrievalSet, settings: WritingSettings, on_error: OnError) -> Written:
    """CIDEr, BLEU, ROUGE-L (and METEOR where it is installed) of the captions that the model writes."""
    numbers, problems = readable(model, settings.modality, asked.media, asked.keys, on_error)
    references = {
        str(number): [text for text, right in zip(asked.texts, asked.relevant[number].tolist(), strict=True) if right]
        for number in numbers
    }
    written: dict[str, str] = {}
    for some in _some(numbers):
        inputs: dict[str, Any] = {settings.modality: [asked.media[n] for n in some]}
        captions = model.caption(beams=settings.beams, max_tokens=settings.max_tokens, **inputs)
        written |= {str(number): str(caption) for number, caption in zip(some, captions, strict=True)}
    others = dict(zip(written, _moved(list(written.values())), strict=True))
    return Written(
        caption_figures(written, references),
        caption_figures(others, references) if len(numbers) > 1 else {},
        None,
        len(numbers),
        (*asked.left_out, *problems.values()),
    )


def measure_answers(model: MiCo, rows: TaskRows, settings: WritingSettings, on_error: OnError) -> Written:
    """The share of questions whose answer is one of the given ones, but for case, punctuation and a leading article."""

    def read(row: Row, key: str) -> tuple[Any, str, set[str]]:
        medium, question = column(row, settings.modality, key), text_of(row, "question", key)
        accepted = {normalise_caption(answer) for answer in texts_of(row, "answer", key)} - {""}
        if not accepted:
            raise BadRow(key, "column 'answer' has no words in it")
        return medium, question, accepted

    skipped: list[InputError] = []
    asked = list(usable(rows, read, on_error, skipped))
    media = [medium for _, (medium, _, _) in asked]
    numbers, unreadable = readable(model, settings.modality, media, [key for key, _ in asked], on_error)
    found: list[str] = []
    limits: dict[str, Any] = {} if settings.max_tokens is None else {"max_tokens": settings.max_tokens}
    for some in _some(numbers):
        inputs: dict[str, Any] = {settings.modality: [media[n] for n in some]}
        found += model.answer([asked[n][1][1] for n in some], beams=settings.beams, **limits, **inputs)
    answers = [normalise_caption(text) for text in found]
    accepted_of = [asked[n][1][2] for n in numbers]

    def share(given: Sequence[str]) -> float:
        return sum(answer in ok for answer, ok in zip(given, accepted_of, strict=True)) / len(numbers)

    commonest = Counter(answer for ok in accepted_of for answer in ok).most_common(1)[0][1] / len(numbers)
    return Written(
        {"accuracy": share(answers)},
        {"accuracy": share(_moved(answers))} if len(numbers) > 1 else {},
        commonest,
        len(numbers),
        (*map(str, skipped), *unreadable.values()),
    )


def readable(
    model: MiCo, modality: str, media: Sequence[Any], keys: Sequence[str], on_error: OnError
) -> tuple[list[int], dict[int, str]]:
    """Numbers of the inputs that can be read, and what is wrong with others; the first one raises, unless skipped."""
    if modality not in model.processors:
        raise ValueError(
            f"model {model.config.name!r} has no modality {modality!r}; it has {', '.join(model.modalities)}"
        )
    numbers, problems = list[int](), dict[int, str]()
    for number, (medium, key) in enumerate(zip(media, keys, strict=True)):
        try:
            model.processors[modality](medium)
        except InputError as error:
            bad = BadRow(key, f"column {modality!r}: {error.problem}")
            if on_error == "raise":
                raise bad from error
            problems[number] = str(bad)
        else:
            numbers.append(number)
    if not numbers:
        raise InputError(next(iter(problems.values()), "the table"), "nothing to measure is left")
    return numbers, problems


def _some(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]


def _moved(texts: list[str]) -> list[str]:
    """Each text at the place of another one, by a distance that the seed decides."""
    distance = 1 + mix(SEED, len(texts)) % max(1, len(texts) - 1)
    return texts[distance:] + texts[:distance]
