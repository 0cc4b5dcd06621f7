"""`one-peace prepare`: tables of tasks, from a published benchmark's own files or from data that installs by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PICTURE_CODES, PICTURE_MIDDLES = "picture-codes", "picture-middles"


def prepare(
    name: Annotated[
        str,
        typer.Argument(
            help="A benchmark (coco, vqa, refcoco, ...), a sample task (scene-boxes, drums, ...), or tables of "
            "pictures with image codes: picture-codes of captioned ones, picture-middles of middles, to be filled in."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Where the tables go.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="The folder with the benchmark's files, as it is published.")
    ] = None,
    library: Annotated[
        Path | None,
        typer.Option(help="Cache of the sample library.", show_default="$ONE_PEACE_CACHE or ~/.cache/one-peace"),
    ] = None,
    coder: Annotated[Path | None, typer.Option(help="Of pictures to code: the VQGAN that codes them.")] = None,
    size: Annotated[int, typer.Option(help="Of pictures to code: their side in pixels.")] = 256,
    device: Annotated[str, typer.Option(help="Of pictures to code: cpu, cuda, ...")] = "cpu",
) -> None:
    """Make the tables that `finetune` and `predict` read; media of benchmarks stay where they are."""
    from one_peace.data.picture_codes import make_picture_codes
    from one_peace.data.published import BENCHMARKS, convert_benchmark
    from one_peace.data.sample_tasks import SAMPLE_TASKS, make_sample_task

    if name in SAMPLE_TASKS:
        typer.echo(str(make_sample_task(name, out, library, say=lambda line: typer.echo(line, err=True))))
        return
    if name not in (*BENCHMARKS, PICTURE_CODES, PICTURE_MIDDLES):
        known = ", ".join([*BENCHMARKS, *SAMPLE_TASKS, PICTURE_CODES, PICTURE_MIDDLES])
        raise typer.BadParameter(f"unknown {name!r}; known: {known}")
    if source is None:
        raise typer.BadParameter(f"--from says where the files of {name} are")
    if name in (PICTURE_CODES, PICTURE_MIDDLES):
        if coder is None:
            raise typer.BadParameter("--coder says which VQGAN codes the pictures")
        middle = name == PICTURE_MIDDLES
        typer.echo(str(make_picture_codes(source, coder, size, out, middle=middle, device=device)))
        return
    typer.echo(str(convert_benchmark(name, source, out)))
