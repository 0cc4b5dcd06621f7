"""`one-peace evaluate`: a model's figures on a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe (sample-library), or a .yaml file.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value changes the recipe: model=PATH, say.")] = None,
    library: Annotated[
        Path | None, typer.Option(help="Cache of the sample library.  [default: ~/.cache/one-peace]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Measure a model: recall with confidence intervals, beside what shuffled pairs give."""
    from one_peace.data.sample_library import DEMO_SOURCES, build_sample_library
    from one_peace.models import from_pretrained
    from one_peace.tasks import video_retrieval
    from one_peace.tasks.evaluation import load_evaluation
    from one_peace.tasks.sample_library import as_table, report

    chosen = load_evaluation(recipe, settings or [])
    model = from_pretrained(chosen.model, device=device)
    sources = DEMO_SOURCES + (video_retrieval.SOURCES if "video" in model.modalities else ())
    items = build_sample_library(library, sources, progress=lambda line: typer.echo(line, err=True)).items
    rows = report(model, items)
    if "video" in model.modalities:
        rows += video_retrieval.video_rows(model, items)
    typer.echo(as_table(rows))
    if out is not None:
        figures = {
            "model": chosen.model,
            "fingerprint": model.fingerprint,
            "rows": [r.to_dict() for r in rows],
        }
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
