"""The option `--import` of commands that work with models: modalities of a user's own."""

from __future__ import annotations

from typing import Annotated

import typer


def _import_all(names: list[str] | None) -> list[str] | None:
    if names:
        from one_peace.modalities.imports import import_modality

        for name in names:
            import_modality(name)
    return names


Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import", callback=_import_all, help="A .py file or a module that registers a modality; repeatable."
    ),
]
"""Works while the command line is read: a command only has to declare it."""
