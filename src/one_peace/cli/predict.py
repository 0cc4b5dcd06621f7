"""`one-peace predict`: answers, boxes and labels from a fine-tuned model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from one_peace.atomic_files import replacing
from one_peace.cli.imports import Imports
from one_peace.readable_json import readable_json

if TYPE_CHECKING:
    from one_peace.tasks.ofa.predictor import SequencePredictor
    from one_peace.tasks.predictor import Predictor


def predict(
    model: Annotated[str, typer.Argument(help="A fine-tuned model: name or path.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="One example as column=value: image=cat.jpg question='What is it?'")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Examples from a .tsv, .csv or .jsonl table.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Every file of a folder as an example, if the model reads it.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write JSON lines here instead of printing.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Also draw predicted boxes on copies in this folder.")] = None,
    kind: Annotated[str | None, typer.Option("--task", help="Kind of task of a published file.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Label map of a published file: .json or .txt.")] = None,
    modality: Annotated[str, typer.Option(help="What a published classifier reads.")] = "image",
    tokenizer: Annotated[Path | None, typer.Option(help="Vocabulary of a published file.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Examples at once.")] = 16,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out what cannot be read instead of stopping.")] = False,
    imports: Imports = None,
) -> None:
    """Predict for one example, a table or a folder."""
    if sum(given is not None for given in (inputs or None, table, folder)) != 1:
        raise typer.BadParameter("give one example as column=value, or --table, or --folder")
    from one_peace.checkpoints.families import family_of
    from one_peace.checkpoints.registry import resolve
    from one_peace.models.ofa.loading import open_saved
    from one_peace.tasks.kinds import TaskSettings
    from one_peace.tasks.labels import LabelMap
    from one_peace.tasks.ofa.kinds import SequenceSettings
    from one_peace.tasks.ofa.predictor import SequencePredictor
    from one_peace.tasks.predictor import Predictor

    names = LabelMap.read(labels).names if labels is not None else ()
    how: dict[str, Any] = {"device": device, "dtype": dtype, "tokenizer": tokenizer, "batch_size": batch_size}
    predictor: Predictor | SequencePredictor
    if family_of(resolve(model)) == "ofa":
        written = None if kind is None else SequenceSettings.of_model(kind, names, open_saved(resolve(model)).config)
        predictor = SequencePredictor.from_pretrained(model, written, **how)
    else:
        settings = None if kind is None else TaskSettings(kind, modality=modality, labels=names)
        predictor = Predictor.from_pretrained(model, settings, **how)
    rows = _example(inputs or [])
    if table is not None:
        rows = _table(table, predictor)
    elif folder is not None:
        rows = _folder(folder, predictor)
    kept: dict[str, dict[str, Any]] = {}
    lines = _lines(predictor, _remember(rows, kept if draw else None), skip, draw, kept)
    if out is None:
        for line in lines:
            typer.echo(line)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:  # the table itself may be meant
            count = sum(file.write(line + "\n") > 0 for line in lines)
        typer.echo(f"{count} predictions in {out}")
    for error in predictor.skipped:
        typer.echo(f"left out: {error}", err=True)


def _example(inputs: list[str]) -> Iterator[tuple[str, Any]]:
    from one_peace.tasks.task import media_columns

    values: dict[str, Any] = {}
    for given in inputs:
        name, equals, value = given.partition("=")
        if not equals:
            raise typer.BadParameter(f"{given!r} is no column=value")
        values[name] = Path(value) if name in media_columns() else value
    yield "the example", values


def _table(path: Path, predictor: Predictor | SequencePredictor) -> Iterator[tuple[str, Any]]:
    from one_peace.cache import table_cache
    from one_peace.data.task_rows import TaskRows
    from one_peace.tasks.task import media_columns

    rows = TaskRows(path, (), media_columns(), table_cache(), renamed=predictor.columns)
    rows.check_ids()
    return iter(rows)


def _folder(path: Path, predictor: Predictor | SequencePredictor) -> Iterator[tuple[str, Any]]:
    from one_peace.search.file_kinds import kind_of, kinds_for

    modality = predictor.reads
    kinds = kinds_for((modality,)) if modality not in (None, "text") else {}
    if modality not in kinds:
        raise typer.BadParameter(
            "--folder is for what reads files of one kind alone, as pictures or sounds; give a --table for other tasks"
        )
    if not path.is_dir():
        raise typer.BadParameter(f"{path} is no folder")
    files = sorted(file for file in path.rglob("*") if kind_of(file, kinds) == modality)
    if not files:
        raise typer.BadParameter(f"{path} holds no {modality} file, judged by the endings of their names")
    return ((str(file), {modality: file}) for file in files)


def _remember(rows: Iterator[tuple[str, Any]], kept: dict[str, dict[str, Any]] | None) -> Iterator[tuple[str, Any]]:
    """Keeps the rows of a batch or two, whose pictures are to be drawn on."""
    for key, row in rows:
        if kept is not None:
            kept[key] = row
        yield key, row


def _lines(
    predictor: Predictor | SequencePredictor,
    rows: Iterator[tuple[str, Any]],
    skip: bool,
    draw: Path | None,
    kept: dict[str, dict[str, Any]],
) -> Iterator[str]:
    from one_peace.tasks.drawn_boxes import draw_box

    if draw is not None:
        draw.mkdir(parents=True, exist_ok=True)
    made = predictor.predict(rows, on_error="skip" if skip else "raise")
    for number, (key, prediction) in enumerate(made, 1):
        if draw is not None:
            row = kept.pop(key)
            if "box" not in prediction:
                raise typer.BadParameter("--draw is for grounding; this model predicts no boxes")
            place = draw / f"{number:06d}.png"
            draw_box(row["image"], prediction["box"], prediction["phrase"]).save(place)
            prediction = {**prediction, "drawn": str(place)}
        yield readable_json({"input": key, **prediction})
