"""`one-peace index`: take a folder of pictures, sounds and texts into a library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def index(
    folder: Annotated[Path, typer.Argument(help="Folder to take in, with all folders in it.")],
    library: Annotated[
        Path | None, typer.Option(help="Where to keep the library.  [default: FOLDER/.one-peace]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name or path of a model.  [default: the library's, one-peace-nano for a new one]"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Embed pictures, sounds and texts to search them. Run it again to take in what has changed."""
    import time

    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.search.library import Library

    keep_freed_memory()
    started = time.perf_counter()
    opened = Library(library or folder / ".one-peace", model, device=device)
    try:
        report = opened.index(folder)
    except KeyboardInterrupt:
        kept = f"{len(opened)} files are kept in {opened.path}"
        typer.echo(f"\ninterrupted: {kept}; the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    for path, problem in report.problems.items():
        typer.echo(f"not indexed: {path}: {problem}".encode("utf-8", "backslashreplace").decode(), err=True)
    typer.echo(f"{report}, in {time.perf_counter() - started:.1f} s; {len(opened)} files in {opened.path}")
