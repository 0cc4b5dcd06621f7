"""`one-peace prepare`: tables of tasks, from a published benchmark's own files or from data that installs by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    name: Annotated[
        str, typer.Argument(help="A benchmark (coco, vqa, refcoco, ...) or a sample task (scene-boxes, drums, ...).")
    ],
    out: Annotated[Path, typer.Argument(help="Where the tables go.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="The folder with the benchmark's files, as it is published.")
    ] = None,
    library: Annotated[
        Path | None, typer.Option(help="Cache of the sample library.  [default: ~/.cache/one-peace]")
    ] = None,
) -> None:
    """Make the tables that `finetune` and `predict` read; media of benchmarks stay where they are."""
    from one_peace.data.published import BENCHMARKS, convert_benchmark
    from one_peace.data.sample_tasks import SAMPLE_TASKS, make_sample_task

    if name in SAMPLE_TASKS:
        typer.echo(str(make_sample_task(name, out, library, say=lambda line: typer.echo(line, err=True))))
        return
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"unknown {name!r}; known: {', '.join([*BENCHMARKS, *SAMPLE_TASKS])}")
    if source is None:
        raise typer.BadParameter(f"--from says where the files of {name} are")
    typer.echo(str(convert_benchmark(name, source, out)))
