"""Kinds of tasks by name, and the settings that a recipe or a fine-tuned model's folder gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.configuration import build_dataclass, within
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.config import Pooling
from one_peace.tasks.audio_question_answering import AudioQuestionAnswering
from one_peace.tasks.classification import Classification
from one_peace.tasks.grounding import Grounding
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.reasoning import Reasoning
from one_peace.tasks.task import Task
from one_peace.tasks.task_file import SavedSettings
from one_peace.tasks.visual_question_answering import VisualQuestionAnswering

Processors = Mapping[str, Processor]


@dataclass(frozen=True)
class TaskSettings(SavedSettings):
    """A task. Which settings count depends on its `kind`.

    modality: what is classified; pooling: how (`HeadConfig`; "mean" is the published image classifier's). labels: names
    of the classes, or of the answers of visual question answering. multiple: several labels per example. smoothing:
    of class numbers. label_column: where labels stand. first_number, center_crop: see `Classification`. reads: whose
    features grounding reads. columns: other names of a table's columns, those that the model was fine-tuned with.
    """

    kind: str
    modality: str = "image"
    pooling: Pooling = "attention"
    labels: tuple[str, ...] = ()
    multiple: bool = False
    smoothing: float = 0.0
    label_column: str = "label"
    first_number: int = 0
    center_crop: bool = False
    reads: str = "image"
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def kinds(cls) -> Collection[str]:
        return KINDS

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of task {self.kind!r}; known: {', '.join(KINDS)}")
        object.__setattr__(self, "labels", tuple(self.labels))
        within(self, "task", smoothing="[0, 1)")
        if self.kind in NEED_LABELS and not self.labels:
            raise ValueError(f"{self.kind} needs labels: a file of them, or a table to take them from")

    def build(self, processors: Processors) -> Task:
        """The task over a model's processors."""
        return KINDS[self.kind](self, processors)


def read_settings(values: Mapping[str, Any], root: Path) -> TaskSettings:
    """Settings as a recipe has them: `labels` is a list, a file below `root` (`labels.json`), or the number of classes,
    which then go by their numbers.

    Raises:
        InputError: a label map that cannot be used.
        ValueError: an unknown kind or setting.
    """
    fields, labels = dict(values), values.get("labels")
    if isinstance(labels, str):
        fields["labels"] = LabelMap.read(root / labels).names
    elif isinstance(labels, int) and not isinstance(labels, bool):
        first = values.get("first_number", 0)
        known = range(first, first + labels) if isinstance(first, int) else ()
        fields["labels"] = tuple(str(number) for number in known)
    return build_dataclass(TaskSettings, fields, "task")


def _classification(settings: TaskSettings, processors: Processors) -> Task:
    return Classification(
        processors,
        settings.modality,
        LabelMap(settings.labels),
        multiple=settings.multiple,
        smoothing=settings.smoothing,
        label_column=settings.label_column,
        pooling=settings.pooling,
        first_number=settings.first_number,
        center_crop=settings.center_crop,
    )


KINDS: dict[str, Callable[[TaskSettings, Processors], Task]] = {
    "classification": _classification,
    "visual-question-answering": lambda s, p: VisualQuestionAnswering(p, LabelMap(s.labels)),
    "audio-question-answering": lambda s, p: AudioQuestionAnswering(p),
    "reasoning": lambda s, p: Reasoning(p),
    "grounding": lambda s, p: Grounding(p, s.reads),
}
NEED_LABELS = ("classification", "visual-question-answering")
