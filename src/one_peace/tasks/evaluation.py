"""The figures that come of an evaluation recipe, each beside controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.checkpoints.registry import resolve
from one_peace.configuration import build_dataclass
from one_peace.data.permutation import permute
from one_peace.data.task_rows import TaskRows
from one_peace.errors import CheckpointError, InputError
from one_peace.models.embedding import EmbeddingModel
from one_peace.models.loading import from_pretrained
from one_peace.models.mico.interface import MiCo
from one_peace.models.one_peace.interface import OnePeace
from one_peace.tasks.controls import BestConstant, ShuffledFigures
from one_peace.tasks.evaluation_recipe import EvaluationRecipe, EvaluationTables
from one_peace.tasks.evaluation_report import SHARES, EvaluationReport, Measurement
from one_peace.tasks.kinds import TaskSettings, read_settings
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.mico.evaluation import ANSWERING, WRITING, WritingSettings, measure_answers, measure_captions
from one_peace.tasks.mico.retrieval import OMNI_RETRIEVAL, MiCoRetrievalSettings, measure_tuples
from one_peace.tasks.ofa.kinds import SEQUENCE_KINDS, SequenceSettings, read_sequence_settings
from one_peace.tasks.ofa.predictor import SequencePredictor
from one_peace.tasks.predictor import Predictor
from one_peace.tasks.retrieval import Recall
from one_peace.tasks.retrieval_evaluation import (
    ZERO_SHOT,
    ZeroShotSettings,
    measure_retrieval,
    measure_zero_shot,
)
from one_peace.tasks.retrieval_pairs import RETRIEVAL, RetrievalSettings, read_captions, read_retrieval_set
from one_peace.tasks.task import OnError, Row

SEED = 3407  # of the order in which a table is read


def run_evaluation(recipe: EvaluationRecipe, device: str = "cpu", on_error: OnError = "raise") -> EvaluationReport:
    """Measures the recipe's model on its tables.

    With "skip" rows that cannot be used are left out, named in the report, and counted for nothing.

    Raises:
        InputError: a table, or one of its rows.
        CheckpointError: a model that is not for this task.
        ValueError: settings that do not fit the task.
    """
    if recipe.kind in SEQUENCE_KINDS:
        return _report_sequences(recipe, device, on_error)
    return _REPORTS.get(recipe.kind, _report_predictions)(recipe, device, on_error)


def _report_retrieval(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    settings = build_dataclass(RetrievalSettings, recipe.task, "task")
    columns: Mapping[str, str] = {}
    if (own := RetrievalSettings.read(resolve(recipe.model))) is not None:
        if recipe.task.get("modality", own.modality) != own.modality:
            asked = recipe.task["modality"]
            raise ValueError(f"task.modality={asked}: {recipe.model} was fine-tuned for retrieval of {own.modality}")
        columns, recipe = own.columns, _of_modality(recipe, settings.modality, own.modality)
        settings = dataclasses.replace(settings, modality=own.modality)
    model = _embedding_model(recipe, (settings.modality,), device)
    rows: list[Measurement] = []
    left_out: list[str] = []
    for split in recipe.data.splits:
        table = recipe.data.open(split, (settings.modality,), columns)
        asked = read_retrieval_set(table, settings.modality, _captions(recipe.data, split), on_error)
        found, asked = measure_retrieval(model, asked, settings.modality, on_error, settings.rerank)
        rows += _recall_rows(split, found)
        left_out += asked.left_out
    return EvaluationReport(recipe.model, model.fingerprint, recipe.kind, _with_published(rows, recipe), left_out)


def _of_modality(recipe: EvaluationRecipe, before: str, modality: str) -> EvaluationRecipe:
    """The recipe with the columns that it reads as one modality read as another."""
    columns = {name: modality if read == before else read for name, read in recipe.data.columns.items()}
    return dataclasses.replace(recipe, tables=dataclasses.replace(recipe.data, columns=columns))


def _report_zero_shot(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    settings = build_dataclass(ZeroShotSettings, recipe.task, "task")
    model = _embedding_model(recipe, (settings.modality,), device)
    given = settings.labels
    labels = LabelMap.read(Path(recipe.data.root) / given) if isinstance(given, str) else LabelMap(given)
    rows: list[Measurement] = []
    left_out: list[str] = []
    for split in recipe.data.splits:
        table = recipe.data.open(split, (settings.modality,))
        measured = measure_zero_shot(model, table, labels, settings, on_error)
        rows += _zero_shot_rows(split, measured.overall, measured.commonest)
        for group, recalls in measured.groups.items():
            rows += _zero_shot_rows(f"{split}, {settings.by} {group}", recalls[:1], None)
        left_out += measured.left_out
    return EvaluationReport(recipe.model, model.fingerprint, recipe.kind, _with_published(rows, recipe), left_out)


def _report_omni_retrieval(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    settings = build_dataclass(MiCoRetrievalSettings, recipe.task, "task")
    model = _mico(recipe, tuple(settings.modalities), device)
    rows: list[Measurement] = []
    left_out: list[str] = []
    for split in recipe.data.splits:
        columns = tuple(dict.fromkeys(settings.modalities.values()))
        table = recipe.data.open(split, columns)
        asked = read_retrieval_set(table, columns, _captions(recipe.data, split), on_error)
        found, asked = measure_tuples(model, asked, settings, on_error)
        rows += _recall_rows(split, found)
        left_out += asked.left_out
    return EvaluationReport(recipe.model, model.fingerprint, recipe.kind, _with_published(rows, recipe), left_out)


def _report_predictions(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    predictor = _predictor(recipe, device)
    task = predictor.task
    rows: list[Measurement] = []
    for split in recipe.data.splits:
        table = recipe.data.open(split, task.columns, predictor.columns)
        table.check_ids()
        figures, shuffled, constant = task.figures(), ShuffledFigures(task), BestConstant(task)
        examples = 0
        for scores, batch in predictor.scored(_in_random_order(table), on_error, targets=True):
            figures.add(scores, batch)
            shuffled.add(scores, batch)
            constant.add(batch)
            examples += len(batch.keys)
        if not examples:
            raise InputError(str(table.path), f"has no usable row; the last one: {predictor.skipped[-1]}")
        control = shuffled.result()
        for name, value in figures.result().items():
            best = constant.result() if name == figures.main else None
            count = figures.counted(name, examples)
            rows.append(
                Measurement.of(
                    split, name, value, count, share=name in SHARES, shuffled=control.get(name), constant=best
                )
            )
    left_out = [str(error) for error in predictor.skipped]
    return EvaluationReport(recipe.model, None, recipe.kind, _with_published(rows, recipe), left_out)


def _report_sequences(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    predictor = SequencePredictor.from_pretrained(
        recipe.model,
        _sequence_settings(recipe),
        device=device,
        dtype=recipe.dtype,
        tokenizer=recipe.tokenizer,
        batch_size=recipe.batch_size,
    )
    rows: list[Measurement] = []
    for split in recipe.data.splits:
        table = recipe.data.open(split, predictor.task.columns, predictor.columns)
        table.check_ids()
        figures = predictor.figures(_in_random_order(table), on_error)
        if not figures.values:
            raise InputError(str(table.path), f"has no usable row; the last one: {predictor.skipped[-1]}")
        control, constant = figures.shuffled(), figures.constant()
        for name, value in figures.result().items():
            share = name in SHARES and predictor.task.writing is not None  # shares of tokens hang together
            best = constant if name == figures.main else None
            count = figures.counted(name)
            rows.append(
                Measurement.of(split, name, value, count, share=share, shuffled=control.get(name), constant=best)
            )
    left_out = [str(error) for error in predictor.skipped]
    return EvaluationReport(recipe.model, None, recipe.kind, _with_published(rows, recipe), left_out)


def _sequence_settings(recipe: EvaluationRecipe) -> SequenceSettings:
    """The recipe's settings, or those of a fine-tuned model with what the recipe says of evaluation."""
    values = {"references": True, **recipe.task} if recipe.kind == "captioning" else dict(recipe.task)
    own = SequenceSettings.read(resolve(recipe.model))
    if own is None:
        return read_sequence_settings(values, Path(recipe.data.root))
    if own.kind != recipe.kind:
        raise CheckpointError(f"{recipe.model}: was fine-tuned for {own.kind}, not for {recipe.kind}")
    changed: dict[str, Any] = {name: values[name] for name in ("decoding", "references") if name in values}
    if not own.answers and values.get("answers"):
        changed["answers"] = read_sequence_settings(values, Path(recipe.data.root)).answers
    return dataclasses.replace(own, **changed)


def _report_writing(recipe: EvaluationRecipe, device: str, on_error: OnError) -> EvaluationReport:
    settings = build_dataclass(WritingSettings, recipe.task, "task")
    model = _mico(recipe, (settings.modality,), device)
    rows: list[Measurement] = []
    left_out: list[str] = []
    for split in recipe.data.splits:
        table = recipe.data.open(split, (settings.modality,))
        if recipe.kind == ANSWERING:
            measured = measure_answers(model, table, settings, on_error)
        else:
            asked = read_retrieval_set(table, settings.modality, _captions(recipe.data, split), on_error)
            measured = measure_captions(model, asked, settings, on_error)
        for name, value in measured.figures.items():
            share = name in SHARES
            best = measured.constant if share else None
            rows.append(
                Measurement.of(
                    split,
                    name,
                    value,
                    measured.examples,
                    share=share,
                    shuffled=measured.shuffled.get(name),
                    constant=best,
                )
            )
        left_out += measured.left_out
    return EvaluationReport(recipe.model, model.fingerprint, recipe.kind, _with_published(rows, recipe), left_out)


_REPORTS: Mapping[str, Callable[[EvaluationRecipe, str, OnError], EvaluationReport]] = {
    RETRIEVAL: _report_retrieval,
    ZERO_SHOT: _report_zero_shot,
    OMNI_RETRIEVAL: _report_omni_retrieval,
    WRITING: _report_writing,
    ANSWERING: _report_writing,
}


def _captions(tables: EvaluationTables, split: str) -> dict[str, list[str]] | None:
    texts = tables.texts.get(split)
    return None if texts is None else read_captions(Path(tables.root) / texts)


def _mico(recipe: EvaluationRecipe, modalities: Sequence[str], device: str) -> MiCo:
    model = _embedding_model(recipe, modalities, device)
    if not isinstance(model, MiCo):
        instead = "; that of OFA models is captioning" if recipe.kind == WRITING else ""
        raise CheckpointError(f"{recipe.model}: {recipe.kind} is for MiCo models{instead}")
    return model


def _embedding_model(recipe: EvaluationRecipe, modalities: Sequence[str], device: str) -> EmbeddingModel:
    model = from_pretrained(
        recipe.model, device=device, dtype=recipe.dtype, tokenizer=recipe.tokenizer, modalities=("text", *modalities)
    )
    if not isinstance(model, EmbeddingModel):
        raise CheckpointError(f"{recipe.model}: gives no embeddings, which {recipe.kind} compares")
    if recipe.seconds is not None and not isinstance(model, OnePeace):
        raise ValueError("seconds is for ONE-PEACE models; MiCo hears as many slices as its configuration says")
    model.processors = {n: processor.limited(seconds=recipe.seconds) for n, processor in model.processors.items()}
    return model


def _predictor(recipe: EvaluationRecipe, device: str) -> Predictor:
    own = TaskSettings.read(resolve(recipe.model))
    if own is not None and own.kind != recipe.kind:
        raise CheckpointError(f"{recipe.model}: was fine-tuned for {own.kind}, not for {recipe.kind}")
    settings = own or read_settings(recipe.task, Path(recipe.data.root))
    return Predictor.from_pretrained(
        recipe.model,
        settings,
        device=device,
        dtype=recipe.dtype,
        tokenizer=recipe.tokenizer,
        batch_size=recipe.batch_size,
    )


def _in_random_order(table: TaskRows) -> Iterator[tuple[str, Row | InputError]]:
    """All rows, so that neighbours have nothing in common but the table."""
    for number in range(len(table)):
        index = int(permute(np.array([number]), len(table), SEED)[0])
        try:
            yield table.row(index)
        except InputError as error:
            yield error.source, error


def _recall_rows(split: str, found: Mapping[str, Sequence[Recall]]) -> list[Measurement]:
    """Of recalls by direction."""
    return [Measurement.of_recall(split, f"{name}@{one.k}", one) for name, recalls in found.items() for one in recalls]


def _zero_shot_rows(split: str, recalls: Sequence[Recall], commonest: float | None) -> list[Measurement]:
    rows = []
    for recall in recalls:
        figure, constant = ("accuracy", commonest) if recall.k == 1 else (f"accuracy@{recall.k}", None)
        rows.append(dataclasses.replace(Measurement.of_recall(split, figure, recall), constant=constant))
    return rows


def _with_published(rows: Sequence[Measurement], recipe: EvaluationRecipe) -> list[Measurement]:
    return [dataclasses.replace(row, published=recipe.published.get(row.split, {}).get(row.figure)) for row in rows]
