"""Kinds of sequence tasks by name, and the settings that a recipe or a fine-tuned model's folder gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from one_peace.configuration import build_dataclass, within
from one_peace.media.pictures import IMAGENET
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.ofa.answering import Answering
from one_peace.tasks.ofa.captioning import Captioning
from one_peace.tasks.ofa.drawing import Drawing
from one_peace.tasks.ofa.entailment import Entailment
from one_peace.tasks.ofa.example import PromptKind
from one_peace.tasks.ofa.infilling import ImageInfilling, TextInfilling
from one_peace.tasks.ofa.labelling import Labelling
from one_peace.tasks.ofa.pretraining import Corpus, Mixture
from one_peace.tasks.ofa.referring import Referring
from one_peace.tasks.ofa.sentences import QUESTIONS, SentenceAnswering
from one_peace.tasks.ofa.summarization import Summarization
from one_peace.tasks.ofa.task import PictureForm, SequenceTask
from one_peace.tasks.task_file import SavedSettings

Decoding = Literal["beam", "candidates"]
PROMPTS: dict[PromptKind, str] = {"none": "none", "source": "src", "open": "prev_output"}
"""What a decoder is given before its answer -> the name that a model's configuration has for it."""


@dataclass(frozen=True)
class SequenceSettings(SavedSettings):
    """A task. Which settings count depends on its `kind`.

    answers: all that may be answered, or the names of the classes; visual questions may do without. question: which of
    `QUESTIONS` the sentences are for. references: a caption is several, joined by `&&`, as self-critical training and
    evaluation want it; otherwise the first `max_words` words of one are trained. objects, captions: whether questions
    come with the objects of the picture, and statements with its caption. prompt: what the decoder is given before the
    answer. decoding: answers that are given are searched by beams, or all scored. noise: see `SequenceRecipe`. columns:
    as of `TaskSettings`.
    """

    kind: str
    answers: tuple[str, ...] = ()
    question: str = "sst2"
    references: bool = False
    max_words: int = 20
    objects: bool = True
    captions: bool = True
    prompt: PromptKind = "none"
    decoding: Decoding = "beam"
    noise: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def kinds(cls) -> Collection[str]:
        return SEQUENCE_KINDS

    @classmethod
    def of_model(cls, kind: str, answers: Sequence[str], config: OfaConfig) -> SequenceSettings:
        """Those of a model without settings of its own, as published files are: what its decoder is given before an
        answer is in its configuration."""
        known = {name: ours for ours, name in PROMPTS.items()}
        return cls(kind, tuple(answers), prompt=known[config.prompt] if kind in PROMPTED else "none")

    def __post_init__(self) -> None:
        if self.kind not in SEQUENCE_KINDS:
            raise ValueError(f"unknown kind of task {self.kind!r}; known: {', '.join(SEQUENCE_KINDS)}")
        object.__setattr__(self, "answers", tuple(self.answers))
        within(self, "task", max_words="[1, inf)", noise="[0, 1)")
        for name, known in (("prompt", PROMPTS), ("decoding", get_args(Decoding)), ("question", QUESTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"task.{name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.prompt != "none" and self.kind not in PROMPTED:
            raise ValueError(f"task.prompt: the decoder of {self.kind} is given nothing before it writes")
        if self.kind == "labelling" and not self.answers:
            raise ValueError("labelling needs answers, the names of the classes: a list or a file of them")
        if self.decoding == "candidates" and not self.given:
            raise ValueError("task.decoding: candidates needs a list of answers to score")

    @property
    def given(self) -> bool:
        """Whether there are answers to choose from."""
        return bool(self.answers) or self.kind in ("entailment", "sentences")

    def build(self, vocabulary: OfaVocabulary, config: OfaConfig) -> SequenceTask:
        """The task for a model."""
        pictures = PictureForm(config.image_size, imagenet=config.image_mean == IMAGENET[0])
        return SEQUENCE_KINDS[self.kind](self, vocabulary, pictures, config)


def read_sequence_settings(values: Mapping[str, Any], root: Path) -> SequenceSettings:
    """Settings as a recipe has them: `answers` is a list, or a file below `root` (`answers.json`).

    Raises:
        InputError: a file of answers that cannot be used.
        ValueError: an unknown kind or setting.
    """
    fields, answers = dict(values), values.get("answers")
    if isinstance(answers, str):
        fields["answers"] = LabelMap.read(root / answers).names
    return build_dataclass(SequenceSettings, fields, "task")


_NOTHING = Corpus(("",), (), {"other": ("",)})  # measured is what a row says, against nothing that is wrong

Maker = Callable[[SequenceSettings, OfaVocabulary, PictureForm, OfaConfig], SequenceTask]

SEQUENCE_KINDS: dict[str, Maker] = {
    "captioning": lambda settings, vocabulary, pictures, config: Captioning(
        vocabulary, pictures, references=settings.references, max_words=settings.max_words
    ),
    "referring": lambda settings, vocabulary, pictures, config: Referring(vocabulary, pictures),
    "picture-answering": lambda settings, vocabulary, pictures, config: Answering(
        vocabulary, pictures, answers=settings.answers, objects=settings.objects, prompt=settings.prompt
    ),
    "entailment": lambda settings, vocabulary, pictures, config: Entailment(
        vocabulary, pictures, captions=settings.captions, prompt=settings.prompt
    ),
    "labelling": lambda settings, vocabulary, pictures, config: Labelling(vocabulary, settings.answers, pictures),
    "drawing": lambda settings, vocabulary, pictures, config: Drawing(vocabulary, config.code_grid**2),
    "sentences": lambda settings, vocabulary, pictures, config: SentenceAnswering(
        vocabulary, QUESTIONS[settings.question], prompt=settings.prompt
    ),
    "summarization": lambda settings, vocabulary, pictures, config: Summarization(vocabulary, settings.noise),
    "text-infilling": lambda settings, vocabulary, pictures, config: TextInfilling(
        vocabulary, vocabulary.tokenizer.whole_word_starts, config.longest_text
    ),
    "image-infilling": lambda settings, vocabulary, pictures, config: ImageInfilling(
        vocabulary, config.code_grid**2, pictures
    ),
    "pretraining": lambda settings, vocabulary, pictures, config: Mixture(vocabulary, _NOTHING, pictures=pictures),
}
PROMPTED = ("picture-answering", "entailment", "sentences")
