"""`one-peace tag`: which of given labels fit the files of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.index import tell_problems
from one_peace.cli.printable import printable
from one_peace.cli.text_files import read_text

if TYPE_CHECKING:
    from one_peace.search.library import Library


def tag(
    folder: Annotated[Path, typer.Argument(help="A folder, or the library that was made of it.")],
    labels: Annotated[str, typer.Option(help="Labels separated by commas, or a text file with one on each line.")],
    best: Annotated[int, typer.Option(min=1, help="Labels for each file, at most.")] = 1,
    least: Annotated[float, typer.Option(help="Cosine similarity that a label needs.")] = -1.0,
    where: Annotated[
        list[str] | None, typer.Option("--where", "-w", help="Only what passes, e.g. modality=image; repeatable.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Add them to the tags of the files, to filter by.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    imports: Imports = None,
) -> None:
    """Label files by nothing but the words of the labels (zero-shot). Indexes the folder first."""
    from one_peace.search.filter_words import filters_from_words
    from one_peace.search.tagging import check_labels, tag_items

    filters, words = filters_from_words(where or []), _labels(labels)
    check_labels(words, best, least)  # before a folder is indexed for them
    library = indexed(folder)
    tagged = list(tag_items(library, words, best=best, least=least, filters=filters))
    if write:
        found = {one.id: [label for label, _ in one.labels] for one in tagged if one.labels}
        written = library.add_tags(found)
        if written < len(found):
            typer.echo(f"{len(found) - written} files keep the tags of the .txt beside them", err=True)
    if json:
        import json as writer

        rows = [{"path": str(one.path), "labels": dict(one.labels)} for one in tagged]
        typer.echo(writer.dumps(rows, indent=1, ensure_ascii=False))
        return
    for one in tagged:
        told = ", ".join(f"{label} {score:.3f}" for label, score in one.labels) or "-"
        typer.echo(printable(f"{told:30}  {one.path}"))


def indexed(folder: Path) -> Library:
    """The library at or in a folder, brought up to date first if it is one of the folder's own.

    Raises:
        LibraryError: `folder` is neither.
    """
    from one_peace.search.library import Library
    from one_peace.search.manifest import is_library

    if is_library(folder):
        return Library(folder)
    library = Library(folder / ".one-peace")
    tell_problems(library.index(folder))
    return library


def _labels(given: str) -> list[str]:
    path = Path(given)
    if "," not in given and path.suffix == ".txt" and not path.is_file():
        raise typer.BadParameter(f"--labels {given}: no such file")
    if "," not in given and path.suffix and path.is_file():
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return [label.strip() for label in given.split(",") if label.strip()]
