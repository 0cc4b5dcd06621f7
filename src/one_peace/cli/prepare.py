"""`one-peace prepare`: a published benchmark's own files to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    benchmark: Annotated[str, typer.Argument(help="coco, flickr30k, audiocaps, clotho, esc50, fsd50k, vggsound, ...")],
    source: Annotated[Path, typer.Argument(help="The folder with the benchmark's files, as it is published.")],
    out: Annotated[Path, typer.Argument(help="Where the tables go.")],
) -> None:
    """Make the tables that `finetune`, `evaluate` and `predict` read; media stay where they are."""
    from one_peace.data.published import convert_benchmark

    typer.echo(str(convert_benchmark(benchmark, source, out)))
