"""`one-peace search`: find files of a library by any mix of inputs, with weights, minus what is not wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.printable import printable
from one_peace.cli.text_files import read_text

if TYPE_CHECKING:
    from one_peace.search.library import Library
    from one_peace.search.queries import Query
    from one_peace.search.records import Result


def search(
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="Text, any number of times.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="Picture file, any number of times.")
    ] = None,
    audio: Annotated[list[Path] | None, typer.Option("--audio", "-a", help="Sound file, any number of times.")] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="A file of the library, or its id: more like this. Repeatable.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--input", help="MODALITY=FILE, of any modality of the model. Repeatable.")
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(help="What is not wanted: words, or MODALITY=FILE. Repeatable.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="MODALITY=NUMBER, also like=... and minus=...; 1 if not given. Repeatable.")
    ] = None,
    library: Annotated[Path, typer.Option(help="A library, or the folder that was indexed.")] = Path(),
    k: Annotated[int, typer.Option("-k", min=1, help="How many answers.")] = 10,
    modality: Annotated[list[str] | None, typer.Option(help="Only image, audio, video or text. Repeatable.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            help="Only what passes: folder=, tag=, caption=, after=, min_size=, max_duration=, ... Repeatable.",
        ),
    ] = None,
    no_calibration: Annotated[
        bool, typer.Option("--no-calibration", help="Rank by cosine similarity alone, across modalities too.")
    ] = False,
    rerank: Annotated[int, typer.Option(min=0, help="Order the first so many again, by joint encoding.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet, a .png or .jpg file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    imports: Imports = None,
) -> None:
    """Search a library by any mix of texts, pictures, sounds and files like those wanted."""
    if not (text or image or audio or like or given):
        raise typer.BadParameter("give at least one of --text, --image, --audio, --like, --input")
    if sheet is not None and sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise typer.BadParameter(f"--sheet must end in .png or .jpg, got {sheet}")
    from one_peace.search.filter_words import filters_from_words
    from one_peace.search.library import Library
    from one_peace.search.manifest import locate_library

    words = [*(where or []), *(f"modality={name}" for name in modality or [])]
    filters = filters_from_words(words)
    opened = Library(locate_library(library))
    inputs: dict[str, list[Any]] = {"text": [*(text or [])], "image": [*(image or [])], "audio": [*(audio or [])]}
    for one in given or []:
        name, _, file = one.partition("=")
        if not file:
            raise typer.BadParameter(f"--input takes MODALITY=FILE, got {one!r}")
        inputs.setdefault(name, []).append(_source(opened, name, file))
    inputs.setdefault("item", []).extend(_item_id(opened, one) for one in like or [])
    query = _query(
        opened, inputs, minus or [], weight or [], k=k, filters=filters, calibrate=not no_calibration, rerank=rerank
    )
    results = opened.search(query)
    if sheet is not None:
        from one_peace.search.sheet import contact_sheet

        picture = contact_sheet(results, **{name: inputs[name] for name in ("text", "image", "audio")})
        sheet.parent.mkdir(parents=True, exist_ok=True)
        picture.save(sheet)
    if json:
        _print_json(results)
    else:
        _print_table(results)
        if sheet is not None:
            typer.echo(f"contact sheet: {sheet}")


def _query(
    library: Library, inputs: dict[str, list[Any]], minus: Sequence[str], weights: Sequence[str], **settings: Any
) -> Query:
    """A modality's weight is shared out among its inputs, as in `Query.of`; that of `minus` too."""
    from one_peace.modalities import list_modalities
    from one_peace.search.queries import ITEM, Part, Query, QueryError

    weighted: dict[str, float] = {}
    for one in weights:
        name, _, number = one.partition("=")
        try:
            weighted["item" if name == "like" else name] = float(number)
        except ValueError:
            raise QueryError("weight", f"expected MODALITY=NUMBER, got {one!r}") from None
    against = weighted.pop("minus", 1.0)
    if against < 0:
        raise QueryError("weight", "minus is subtracted already; give it a positive weight")
    query = Query.of({name: given for name, given in inputs.items() if given}, weighted, **settings)
    unwanted = []
    for one in minus:
        name, equals, file = one.partition("=")
        # "e=mc2" is words. A misspelt modality before a file is not: the query names the right one.
        is_input = equals and (name in (*list_modalities(), ITEM) or os.path.isfile(file))
        modality, source = (name, _source(library, name, file)) if is_input else ("text", one)
        unwanted.append(Part(modality, source, -against / len(minus)))
    return replace(query, parts=(*query.parts, *unwanted))


def _source(library: Library, modality: str, given: str) -> str | Path:
    """What a query takes: a file, the id of an item, of texts what is in their file, or the words themselves."""
    if modality == "item":
        return _item_id(library, given)
    if modality != "text":
        return Path(given)
    return read_text(Path(given)) if os.path.isfile(given) else given


def _item_id(library: Library, given: str) -> str:
    item = library.find(given)
    return item.id if item else given


def _print_json(results: Sequence[Result]) -> None:
    import json

    rows = [
        {
            "rank": result.rank,
            "score": round(result.score, 6),
            "standing": round(result.standing, 4),
            "why": [round(score, 6) for score in result.why],
            "modality": result.modality,
            "id": result.id,
            "path": str(result.path),
            "caption": result.caption,
            "part": result.label,
            "start": result.start,
            "tags": list(result.tags),
            "duration": result.duration,
            "size": result.size,
        }
        for result in results
    ]
    typer.echo(json.dumps(rows, indent=1))


def _print_table(results: Sequence[Result]) -> None:
    if not results:
        typer.echo("nothing found")
        return
    import sys

    captions = [printable(f"{r.caption} ({r.label})" if r.label else r.caption) for r in results]
    rows = [
        (f"{r.rank}", f"{r.score:.3f}", r.modality, caption, printable(r.path))
        for r, caption in zip(results, captions, strict=True)
    ]
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
