"""`one-peace convert`: official files to our folders and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="An official file (.pt, .pkl), or a saved model's folder.")],
    target: Annotated[Path, typer.Argument(help="The folder, or the official file, to write.")],
    vision: Annotated[
        bool,
        typer.Option("--vision", help="From a folder: write the image branch alone, as the vision code reads it."),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json, or a folder with it or with encoder.json, vocab.bpe and dict.txt."),
    ] = None,
) -> None:
    """Convert between official files and our format, bit for bit, either way."""
    from one_peace.checkpoints.convert import convert as convert_weights
    from one_peace.models.one_peace.loading import find_tokenizer

    def write_files(folder: Path) -> None:
        beside = source.with_suffix(".tokenizer.json")
        found = find_tokenizer(tokenizer or (beside if beside.is_file() else source.parent), max_tokens=70)
        if found is not None:
            found.save(folder / "tokenizer.json")
        elif tokenizer is not None:
            raise typer.BadParameter(f"{tokenizer} holds no vocabulary")
        else:
            typer.echo("no vocabulary found beside the file: add tokenizer.json to the folder to encode texts")

    convert_weights(source, target, form="vision" if vision else None, write_files=write_files)
    typer.echo(f"wrote {target}")
    if target.is_file() and (source / "tokenizer.json").is_file() and not vision:
        beside = target.with_suffix(".tokenizer.json")  # where from_pretrained looks for it
        shutil.copyfile(source / "tokenizer.json", beside)
        typer.echo(f"wrote {beside}")
