"""`one-peace duplicates`: files of a folder that are copies of each other, or nearly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.printable import printable


def duplicates(
    folder: Annotated[Path, typer.Argument(help="A folder, or the library that was made of it.")],
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", help="Only what passes, e.g. modality=image; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    imports: Imports = None,
) -> None:
    """List near-duplicates in groups, the largest file of each first. Nothing is removed. Indexes the folder first."""
    from one_peace.cli.tag import indexed
    from one_peace.search.duplicates import find_duplicates
    from one_peace.search.filter_words import filters_from_words

    filters = filters_from_words(where or [])
    groups = find_duplicates(indexed(folder), filters)
    if json:
        import json as writer

        typer.echo(writer.dumps([[str(item.path) for item in group] for group in groups], indent=1))
        return
    for group in groups:
        for item in group:
            typer.echo(printable(f"{item.size:>12}  {item.path}"))
        typer.echo("")
    extra = sum(len(group) - 1 for group in groups)
    typer.echo(f"{len(groups)} groups; {extra} files are near-duplicates of another")
