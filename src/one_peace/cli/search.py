"""`one-peace search`: find files of a library by any mix of texts, pictures and sounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from one_peace.search.records import Result


def search(
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="Text, any number of times.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture file, any number of times.")
    ] = None,
    audio: Annotated[list[Path] | None, typer.Option("--audio", "-a", help="Sound file, any number of times.")] = None,
    library: Annotated[Path, typer.Option(help="A library, or the folder that was indexed.")] = Path(),
    k: Annotated[int, typer.Option("-k", min=1, help="How many answers.")] = 10,
    modality: Annotated[str | None, typer.Option(help="Only image, audio or text.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet, a .png or .jpg file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search a library by any mix of texts, pictures and sounds."""
    if not (text or image or audio):
        raise typer.BadParameter("give at least one of --text, --image, --audio")
    from one_peace.search.library import Library
    from one_peace.search.manifest import locate_library

    opened = Library(locate_library(library))
    results = opened.search(text=text or None, image=image or None, audio=audio or None, k=k, modality=modality)
    if sheet is not None:
        from one_peace.search.sheet import contact_sheet

        picture = contact_sheet(results, text=text or [], image=image or [], audio=audio or [])
        picture.save(sheet)
    if json:
        _print_json(results)
    else:
        _print_table(results)
        if sheet is not None:
            typer.echo(f"contact sheet: {sheet}")


def _print_json(results: Sequence[Result]) -> None:
    import json

    rows = [
        {
            "rank": result.rank,
            "score": round(result.score, 6),
            "modality": result.modality,
            "path": str(result.path),
            "caption": result.caption,
            "duration": result.duration,
        }
        for result in results
    ]
    typer.echo(json.dumps(rows, indent=1))


def _print_table(results: Sequence[Result]) -> None:
    if not results:
        typer.echo("nothing found")
        return
    import sys

    rows = [(f"{r.rank}", f"{r.score:.3f}", r.modality, r.caption, str(r.path)) for r in results]
    if not sys.stdout.isatty():
        captions = [row[3] if len(row[3]) <= 40 else row[3][:37] + "..." for row in rows]
        width = max(map(len, captions))
        for (rank, score, kind, _, path), caption in zip(rows, captions, strict=True):
            typer.echo(f"{rank:>3}  {score:>6}  {kind:5}  {caption:{width}}  {path}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right", style="cyan", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("caption", style="bold", max_width=44, overflow="ellipsis", no_wrap=True)
    table.add_column("file", overflow="fold", style="dim")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
