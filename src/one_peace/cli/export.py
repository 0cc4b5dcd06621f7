"""`one-peace export`: a library as Parquet or NumPy files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli.imports import Imports


def export(
    out: Annotated[Path, typer.Argument(help="A .parquet file, or .npz (vectors) with .jsonl (the rest) beside it.")],
    library: Annotated[Path, typer.Option(help="A library, or the folder that was indexed.")] = Path(),
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", help="Only what passes, e.g. modality=image; repeatable.")
    ] = None,
    imports: Imports = None,
) -> None:
    """Write all vectors of a library with what is known of each file."""
    from one_peace.search.exporting import export_library
    from one_peace.search.filter_words import filters_from_words
    from one_peace.search.library import Library
    from one_peace.search.manifest import locate_library

    written = export_library(Library(locate_library(library)), out, filters_from_words(where or []))
    typer.echo(f"{written} rows in {out}")
