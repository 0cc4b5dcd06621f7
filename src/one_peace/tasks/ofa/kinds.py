"""Kinds of sequence tasks by name, and the settings that a recipe or a fine-tuned model's folder gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from one_peace.configuration import build_dataclass, within
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.ofa.answering import MAX_ANSWER, Answering
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
from one_peace.tasks.ofa.task import IMAGENET, PictureForm, SequenceTask
from one_peace.tasks.task_file import SavedSettings

Decoding = Literal["beam", "candidates"]
PROMPTS = {"none": "none", "source": "src", "open": "prev_output"}
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
        form = PictureForm(config.image_size, imagenet=config.image_mean == IMAGENET[0])
        return SEQUENCE_KINDS[self.kind](self, vocabulary, form, config)

    def writing(self) -> GenerationSettings:
        """How the model writes, as published for the kind."""
        return GenerationSettings(end=EOS_ID, pad=PAD_ID, **cast(Any, DECODING[self.kind]))


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
    "captioning": lambda s, v, form, c: Captioning(v, form, references=s.references, max_words=s.max_words),
    "referring": lambda s, v, form, c: Referring(v, form),
    "picture-answering": lambda s, v, form, c: Answering(
        v, form, answers=s.answers, objects=s.objects, prompt=s.prompt
    ),
    "entailment": lambda s, v, form, c: Entailment(v, form, captions=s.captions, prompt=s.prompt),
    "labelling": lambda s, v, form, c: Labelling(v, s.answers, form),
    "drawing": lambda s, v, form, c: Drawing(v, c.code_grid**2),
    "sentences": lambda s, v, form, c: SentenceAnswering(v, QUESTIONS[s.question], prompt=s.prompt),
    "summarization": lambda s, v, form, c: Summarization(v, s.noise),
    "text-infilling": lambda s, v, form, c: TextInfilling(v, v.tokenizer.whole_word_starts),
    "image-infilling": lambda s, v, form, c: ImageInfilling(v, c.code_grid**2, form),
    "pretraining": lambda s, v, form, c: Mixture(v, _NOTHING, pictures=form),
}
PROMPTED = ("picture-answering", "entailment", "sentences")
DECODING: Mapping[str, Mapping[str, object]] = {
    "captioning": {"beams": 5, "max_tokens": 16, "no_repeat_ngram": 3},
    "referring": {"beams": 5, "min_tokens": 4, "max_tokens": 4},
    "picture-answering": {"beams": 5, "max_tokens": MAX_ANSWER, "length_penalty": 0.0},
    "entailment": {"beams": 5, "max_tokens": 4, "length_penalty": 0.0},
    "labelling": {"beams": 5, "max_tokens": MAX_ANSWER, "length_penalty": 0.0},
    "sentences": {"max_tokens": 1},
    "summarization": {"beams": 6, "max_tokens": 32, "length_penalty": 0.7, "no_repeat_ngram": 3},
}
"""Of the kinds whose figures are of what is written; the others are measured by the likelihood of their targets."""
