"""MiCo's retrieval by tuples: texts against clips by one modality of theirs, or several jointly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from one_peace.errors import InputError
from one_peace.models.mico.config import BRANCH_OF, SUBTITLE, branch_of
from one_peace.models.mico.interface import MiCo
from one_peace.tasks.mico.clips import check_tasks
from one_peace.tasks.mico.evaluation import readable
from one_peace.tasks.mico.pretraining import MiCoTask, Parts, parse_tasks, read_tuples
from one_peace.tasks.retrieval import Recall
from one_peace.tasks.retrieval_evaluation import as_trained, measure_vectors
from one_peace.tasks.retrieval_pairs import RetrievalSet, check_rerank
from one_peace.tasks.task import OnError

OMNI_RETRIEVAL = "omni-retrieval"  # the kind of task


@dataclass(frozen=True)
class MiCoRetrievalSettings:
    """Texts against each of `tuples`, both ways.

    modalities: what is read of a clip, a list of columns, or a mapping from modalities to columns: `{video: video,
    audio: video}` hears the sound tracks of the videos. tuples: as in training, lists of branches (`[[vision], [vision,
    audio]]`) or the published form (`tv%tva`). `rerank` as of `RetrievalSettings`.
    """

    kind: str
    modalities: Any  # as a recipe has them; afterwards Mapping[str, str]
    tuples: Any  # tuple[Parts, ...]
    rerank: int = 0

    def __post_init__(self) -> None:
        given, tuples = self.modalities, self.tuples
        if not isinstance(given, Mapping | list | tuple):
            raise ValueError(f"task.modalities: a list of columns, or a column for each modality, not {given!r}")
        pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in given]
        if unknown := [name for name, _ in pairs if not isinstance(name, str) or name not in BRANCH_OF]:
            raise ValueError(f"task.modalities are some of {', '.join(BRANCH_OF)}, not {unknown[0]!r}")
        if nameless := [column for _, column in pairs if not isinstance(column, str)]:
            raise ValueError(f"task.modalities: the name of a column is a text, not {nameless[0]!r}")
        columns = dict(pairs)
        if isinstance(tuples, str):
            if "_" in tuples:
                raise ValueError(f"task.tuples: {tuples!r} names several objectives; tuples are such as tv%tva")
            (task,) = parse_tasks(f"ret%{tuples}")
        else:
            task = MiCoTask("retrieval", read_tuples(tuples, "task.tuples"))
        if any(SUBTITLE in parts for parts in task.tuples):
            raise ValueError("task.tuples: subtitles are learnt from, and not looked up")
        check_tasks([task], list(columns))
        check_rerank(self.rerank)
        object.__setattr__(self, "modalities", columns)
        object.__setattr__(self, "tuples", task.tuples)

    def of(self, parts: Parts) -> tuple[str, ...]:
        """The modalities of a tuple."""
        return tuple(name for part in parts for name in self.modalities if branch_of(name) == part)


def measure_tuples(
    model: MiCo, asked: RetrievalSet, settings: MiCoRetrievalSettings, on_error: OnError = "raise"
) -> tuple[dict[str, list[Recall]], RetrievalSet]:
    """recall@1, 5 and 10 by tuple and direction -> ({"video+audio_to_text": [...], ...}, what was measured).

    The media of `asked` are dicts by column. All tuples are measured on the same clips: with "skip" one of which
    something cannot be read is left out.

    Raises:
        InputError: a clip that cannot be read, or too few of them.
        ValueError: the model has no head for a tuple.
    """
    problems: dict[int, str] = {}
    for name, source in settings.modalities.items():
        _, unreadable = readable(model, name, [clip[source] for clip in asked.media], asked.keys, on_error)
        problems |= unreadable
    if problems:
        asked = asked.without(problems, problems.values())
    if not asked.media or len(asked.texts) < 2:
        raise InputError(", ".join(asked.left_out)[:500] or "the table", "nothing to measure is left")
    texts = model.encode_text([as_trained(model, text) for text in asked.texts])
    found: dict[str, list[Recall]] = {}
    for parts in settings.tuples:
        names = settings.of(parts)
        clips = [{name: clip[settings.modalities[name]] for name in names} for clip in asked.media]
        vectors = model.encode_joint(**{name: [clip[name] for clip in clips] for name in names})
        found |= measure_vectors(model, asked, "+".join(names), vectors, texts, clips, settings.rerank)
    return found, asked
