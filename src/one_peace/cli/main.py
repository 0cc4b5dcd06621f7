"""The `one-peace` command. Each command is a module here that holds a function of its name."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import one_peace
from one_peace.errors import OnePeaceError

COMMANDS = (
    "demo",
    "index",
    "search",
    "export",
    "tag",
    "duplicates",
    "serve",
    "embed",
    "samples",
    "pretrain",
    "report",
    "evaluate",
    "prepare",
    "clips",
    "finetune",
    "predict",
    "caption",
    "answer",
    "locate",
    "draw",
    "convert",
    "info",
)


class _Group(TyperGroup):
    """Tells users of wrong input in one line; `ONE_PEACE_DEBUG=1` shows where it came from instead."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone: nothing to tell it
            raise
        except (OnePeaceError, ValueError, OSError) as error:
            if os.environ.get("ONE_PEACE_DEBUG"):
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    name="one-peace",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(one_peace.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One representation model over text, images and sound: encode, index, search, pretrain."""


# Importing them all is fast: a command's module imports what it works with when it runs.
for _name in COMMANDS:
    app.command(_name)(getattr(import_module(f"one_peace.cli.{_name}"), _name))

if __name__ == "__main__":
    app()
