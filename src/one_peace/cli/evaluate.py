"""`one-peace evaluate`: a model's figures on a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from one_peace.cli.imports import Imports

if TYPE_CHECKING:
    from one_peace.tasks.evaluation_recipe import EvaluationRecipe

SHOWN = 5  # of what was left out


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe (sample-library, coco, ...), or a .yaml file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value; data=FOLDER and checkpoint=MODEL are short forms")
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(help="Cache of the sample library.", show_default="$ONE_PEACE_CACHE or ~/.cache/one-peace"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    skip: Annotated[bool, typer.Option("--skip", help="Leave out unusable rows instead of stopping.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
    imports: Imports = None,
) -> None:
    """Measure a model: figures with confidence intervals, beside what shuffled answers and one fixed answer give."""
    from one_peace.tasks.evaluation import run_evaluation
    from one_peace.tasks.evaluation_recipe import SAMPLE_LIBRARY, load_evaluation

    chosen = load_evaluation(recipe, settings or [])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    if chosen.kind == SAMPLE_LIBRARY:
        figures = _of_sample_library(chosen, library, device)
    else:
        report = run_evaluation(chosen, device, "skip" if skip else "raise")
        typer.echo(report.as_table())
        for line in report.left_out[:SHOWN]:
            typer.echo(f"left out: {line}", err=True)
        if len(report.left_out) > SHOWN:
            typer.echo(f"left out: {len(report.left_out) - SHOWN} more", err=True)
        figures = {"recipe": recipe, **report.to_dict()}
    if out is not None:
        out.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _of_sample_library(recipe: EvaluationRecipe, library: Path | None, device: str) -> dict[str, Any]:
    from one_peace.data.sample_library.building import DEMO_SOURCES, build_sample_library
    from one_peace.models.loading import load_embedder
    from one_peace.tasks import sample_library_videos
    from one_peace.tasks.sample_library import as_table, report

    model = load_embedder(recipe.model, device)
    sources = DEMO_SOURCES + (sample_library_videos.SOURCES if "video" in model.modalities else ())
    items = build_sample_library(library, sources, progress=lambda line: typer.echo(line, err=True)).items
    rows = report(model, items)
    if "video" in model.modalities:
        rows += sample_library_videos.video_rows(model, items)
    typer.echo(as_table(rows))
    return {"model": recipe.model, "fingerprint": model.fingerprint, "rows": [row.to_dict() for row in rows]}
