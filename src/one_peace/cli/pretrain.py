"""`one-peace pretrain`: one stage of pretraining on the sample library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def pretrain(
    recipe: Annotated[str, typer.Argument(help="name of a shipped recipe, or a .yaml file")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, dotted keys reach inside")] = None,
    out: Annotated[Path, typer.Option(help="run folder; an interrupted run in it continues")] = Path("runs/pretrain"),
    library: Annotated[Path | None, typer.Option(help="root of the sample library's cache")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Pretrain a model on image-text or audio-text pairs."""
    from one_peace.data.sample_library import ALL_SOURCES, build_sample_library
    from one_peace.training.allocator import keep_freed_memory
    from one_peace.training.recipe import load_recipe
    from one_peace.training.run import run_pretraining

    def report(row: dict[str, Any]) -> None:
        typer.echo(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )

    keep_freed_memory()
    chosen = load_recipe(recipe, settings or [])
    built = build_sample_library(library, ALL_SOURCES, progress=typer.echo)
    run_pretraining(chosen, built.items, out, device, report)
