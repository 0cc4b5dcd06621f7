"""What `caption`, `answer`, `locate` and `draw` share: the model, pictures from files and folders, lines of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from one_peace.readable_json import readable_json

if TYPE_CHECKING:
    from one_peace.models.ofa.interface import Ofa

Model = Annotated[str, typer.Option("--model", "-m", help="An OFA model: a folder, a published file or a hub id.")]
Pictures = Annotated[list[Path], typer.Argument(help="Pictures, and folders of them.")]
Json = Annotated[bool, typer.Option("--json", help="A JSON object per line.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Vocabulary = Annotated[Path | None, typer.Option(help="Vocabulary of a published file.")]
Beams = Annotated[int, typer.Option(min=1, help="Sequences that the search keeps.")]
Skip = Annotated[bool, typer.Option("--skip", help="Leave out what cannot be read instead of stopping.")]

AT_ONCE = 64  # pictures whose answers are waited for


def open_ofa(model: str, device: str, dtype: str, tokenizer: Path | None) -> Ofa:
    """The model. `BadParameter` where it is of another family."""
    from one_peace.models import from_pretrained
    from one_peace.models.ofa.interface import Ofa

    opened = from_pretrained(model, device=device, dtype=dtype, tokenizer=tokenizer)
    if not isinstance(opened, Ofa):
        raise typer.BadParameter(f"{model} writes nothing: it is no OFA model but gives embeddings")
    return opened


def pictures_in(places: Sequence[Path]) -> list[Path]:
    """The pictures themselves, and those anywhere in the folders. `BadParameter` for a folder without any."""
    from one_peace.search.file_kinds import kind_of

    found: list[Path] = []
    for place in places:
        if not place.is_dir():
            found.append(place)
            continue
        inside = sorted(file for file in place.rglob("*") if file.is_file() and kind_of(file) == "image")
        if not inside:
            raise typer.BadParameter(f"{place} holds no picture, judged by the endings of their names")
        found += inside
    return found


def answered(pictures: Sequence[Path], ask: Callable[..., Any], skip: bool) -> Iterator[tuple[Path, Any]]:
    """Pictures with what `ask`, a method of `Ofa`, says of them, some at a time."""
    for start in range(0, len(pictures), AT_ONCE):
        some = list(pictures[start : start + AT_ONCE])
        made = ask(some, on_error="skip" if skip else "raise")
        if not skip:
            yield from zip(some, made, strict=True)
            continue
        for index, error in made.errors.items():
            typer.echo(f"left out: {some[index]}: {error.problem}", err=True)
        yield from ((some[index], value) for index, value in zip(made.kept, made.values, strict=True))


def print_lines(answers: Iterable[tuple[Path, dict[str, Any], str]], as_json: bool, alone: bool) -> None:
    """(picture, everything, in short) of each answer; of a picture alone the answer without its name."""
    for picture, values, short in answers:
        if as_json:
            typer.echo(readable_json({"input": str(picture), **values}))
        else:
            typer.echo(short if alone else f"{picture}\t{short}")
