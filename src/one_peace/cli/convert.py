"""`one-peace convert`: official files to our folders and back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from one_peace.cli.imports import Imports


def convert(
    model: Annotated[
        str,
        typer.Argument(help="An official file (.pt, .pkl) or folder, a saved model's folder, or a model's name."),
    ],
    target: Annotated[Path, typer.Argument(help="The folder, or the official file, to write.")],
    vision: Annotated[
        bool,
        typer.Option("--vision", help="From a folder: write the image branch alone, as the vision code reads it."),
    ] = False,
    transformers: Annotated[
        bool,
        typer.Option("--transformers", help="From a folder of OFA: write the transformers-style layout, a folder."),
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="tokenizer.json, or a folder with it or with the published files of a vocabulary."),
    ] = None,
    imports: Imports = None,
) -> None:
    """Convert between official files and our format, bit for bit, either way."""
    from one_peace.checkpoints.convert import convert as convert_weights
    from one_peace.checkpoints.families import family_of
    from one_peace.checkpoints.registry import resolve
    from one_peace.models.mico.loading import find_pieces
    from one_peace.models.vocabularies import find_tokenizer

    source = resolve(model)

    def write_files(folder: Path) -> None:
        if family_of(source) == "mico":
            pieces = find_pieces(source, tokenizer)
            if pieces is not None:
                pieces.save(folder)
            else:
                typer.echo("no vocab.txt found beside the weights: add it to the folder to encode texts")
            return
        beside = source.with_suffix(".tokenizer.json")
        place = source if source.is_dir() else source.parent
        found = find_tokenizer(tokenizer or (beside if beside.is_file() else place), max_tokens=70)
        if found is not None:
            found.save(folder / "tokenizer.json")
        elif tokenizer is not None:
            raise typer.BadParameter(f"{tokenizer} holds no vocabulary")
        else:
            typer.echo("no vocabulary found beside the file: add tokenizer.json to the folder to encode texts")

    if vision and transformers:
        raise typer.BadParameter("--vision and --transformers are layouts of different models; give one")
    form: Literal["vision", "transformers"] | None = "vision" if vision else "transformers" if transformers else None
    convert_weights(source, target, form=form, write_files=write_files)
    typer.echo(f"wrote {target}")
    published_folder = target.is_dir() and (transformers or family_of(source) == "mico")
    if published_folder and (source / "tokenizer.json").is_file() and not (target / "tokenizer.json").exists():
        shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")
    if target.is_file() and (source / "tokenizer.json").is_file() and not vision:
        beside = target.with_suffix(".tokenizer.json")  # where from_pretrained looks for it
        shutil.copyfile(source / "tokenizer.json", beside)
        typer.echo(f"wrote {beside}")
