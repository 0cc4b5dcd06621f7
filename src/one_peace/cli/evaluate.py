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
    from one_peace.data.sample_library import build_sample_library
    from one_peace.models import from_pretrained
    from one_peace.tasks.evaluation import load_evaluation
    from one_peace.tasks.sample_library import as_table, report

    chosen = load_evaluation(recipe, settings or [])
    model = from_pretrained(chosen.model, device=device)
    items = build_sample_library(library, progress=lambda line: typer.echo(line, err=True)).items
    rows = report(model, items)
    typer.echo(as_table(rows))
    if out is not None:
        figures = {
            "model": chosen.model,
            "fingerprint": model.fingerprint,
            "rows": [r.to_dict() for r in rows],
        }
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
