"""`one-peace report`: the curves of training runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `pretrain` or `finetune`, or their log.jsonl.")],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .svg, .pdf, ...")] = Path("curves.png"),
) -> None:
    """Draw losses, learning rate, gradient norm, throughput and recall of one or several runs."""
    from one_peace.training.curves import draw_curves

    typer.echo(f"wrote {draw_curves(runs, out)}")
