"""`one-peace serve`: the HTTP API and the page over a library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.text_files import read_text

KEYS_VARIABLE = "ONE_PEACE_API_KEYS"


def serve(
    library: Annotated[Path, typer.Argument(help="A library, or the folder that was indexed.")] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    model: Annotated[str | None, typer.Option(help="Name or path; default: the library's own.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, ...")] = "cpu",
    ofa: Annotated[str | None, typer.Option(help="An OFA model, to describe pictures and find things in them.")] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help=f"File with the accepted API keys, one a line. Or set {KEYS_VARIABLE}.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Another host name that clients call it by.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse to add and to delete.")] = False,
    imports: Imports = None,
) -> None:
    """Serve a library over HTTP, with a page to search it: http://127.0.0.1:8000. Ctrl+C stops it."""
    from one_peace.search.manifest import locate_library
    from one_peace.server.running import serve as run
    from one_peace.server.settings import Settings

    settings = Settings(host, port, read_keys(api_keys), tuple(name or ()), read_only)
    run(locate_library(library), settings, model=model, device=device, ofa=ofa, announce=say_address)


def say_address(url: str) -> None:
    """Where the page is, and how to stop it."""
    typer.echo(f"{url}   (Ctrl+C stops it)")


def read_keys(file: Path | None) -> tuple[str, ...]:
    """API keys of a file, one a line ("#" begins a comment), or of the environment, separated by spaces or commas."""
    if file is None:
        return tuple(os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split())
    lines = (line.partition("#")[0].strip() for line in read_text(file).splitlines())
    keys = tuple(line for line in lines if line)
    if not keys:
        raise ValueError(f"{file}: holds no API key; write one or more, one a line")
    return keys
