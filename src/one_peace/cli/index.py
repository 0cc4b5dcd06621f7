"""`one-peace index`: take a folder of pictures, sounds, videos and texts into a library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.printable import printable

if TYPE_CHECKING:
    from one_peace.search.indexing import IndexReport

SHOWN = 10  # endings of files that are left out


def index(
    folder: Annotated[Path, typer.Argument(help="Folder to take in, with all folders in it.")],
    library: Annotated[
        Path | None, typer.Option(help="Where to keep the library.", show_default="FOLDER/.one-peace")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name or path of a model.", show_default="the library's, one-peace-nano for a new one"),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where a new library keeps its vectors, e.g. s3://bucket/name.", show_default="in the library"
        ),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Forget what the library holds and begin anew, e.g. with another model; what was uploaded stays.",
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    imports: Imports = None,
) -> None:
    """Embed pictures, sounds, videos and texts to search them. Run it again to take in what has changed."""
    if not folder.is_dir():  # said before a library is erased, or a model loaded
        raise typer.BadParameter(f"{folder} is not a folder")
    import time

    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.search.indexing import IndexReport
    from one_peace.search.library import Library
    from one_peace.search.rebuilding import begin_anew

    keep_freed_memory()
    started = time.perf_counter()
    place = library or folder / ".one-peace"
    if rebuild:
        try:
            opened, uploaded = begin_anew(place, model, device, store)
        except KeyboardInterrupt:
            typer.echo(f"\ninterrupted: the same command makes {place} anew, with what was uploaded", err=True)
            raise typer.Exit(130) from None
    else:
        opened, uploaded = Library(place, model, device=device, store=store), IndexReport()
    try:
        report = opened.index(folder)
    except KeyboardInterrupt:
        kept = f"{len(opened)} files are kept in {opened.path}"
        command = "the same command without --rebuild" if rebuild else "the same command"
        typer.echo(f"\ninterrupted: {kept}; {command} goes on from there", err=True)
        raise typer.Exit(130) from None
    tell_problems(uploaded)
    tell_problems(report)
    if report.left_out:
        shown = [f"{count} {ending or 'without any'}" for ending, count in report.left_out.most_common(SHOWN)]
        if (more := len(report.left_out) - SHOWN) > 0:
            shown.append(f"and {more} other endings")
        typer.echo(printable(f"left out by ending: {', '.join(shown)}"), err=True)
    opened.close()
    if uploaded.left_out:
        waiting = f"{uploaded.left_out.total()} uploaded files are of no kind that this model takes"
        typer.echo(f"{waiting}: they wait, with captions and tags, for --rebuild with one that does", err=True)
    if uploaded.items:
        typer.echo(f"{len(uploaded.items)} uploaded files taken in again")
    typer.echo(f"{report}, in {time.perf_counter() - started:.1f} s; {len(opened)} files in {opened.path}")


def tell_problems(report: IndexReport) -> None:
    """Which files are not in the library, or not all of them, and why."""
    for path, problem in report.problems.items():
        told = "indexed in part" if path in report.items else "not indexed"
        typer.echo(printable(f"{told}: {path}: {problem}"), err=True)
