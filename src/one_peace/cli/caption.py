"""`one-peace caption`: what pictures show, in words."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from one_peace.cli.written import (
    Beams,
    Device,
    Dtype,
    Json,
    Model,
    Pictures,
    Skip,
    Vocabulary,
    answered,
    open_ofa,
    pictures_in,
    print_lines,
)


def caption(
    pictures: Pictures,
    model: Model,
    as_json: Json = False,
    beams: Beams = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest caption, in parts of words.")] = 16,
    tokenizer: Vocabulary = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    skip: Skip = False,
) -> None:
    """Describe pictures with an OFA model."""
    files = pictures_in(pictures)
    ofa = open_ofa(model, device, dtype, tokenizer)
    made = answered(files, partial(ofa.caption, beams=beams, max_tokens=max_tokens), skip)
    print_lines(((file, {"caption": text}, text) for file, text in made), as_json, len(files) == 1)
