"""`one-peace caption`: what pictures show, in words."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from one_peace.cli import written


def caption(
    pictures: written.Pictures,
    model: written.Model,
    as_json: written.Json = False,
    beams: written.Beams = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest caption, in parts of words.")] = 16,
    tokenizer: written.Vocabulary = None,
    device: written.Device = "cpu",
    dtype: written.Dtype = "float32",
    skip: written.Skip = False,
) -> None:
    """Describe pictures with an OFA model."""
    files = written.pictures_in(pictures)
    ofa = written.open_ofa(model, device, dtype, tokenizer)
    made = written.answered(files, partial(ofa.caption, beams=beams, max_tokens=max_tokens), skip)
    written.print_lines(((file, {"caption": text}, text) for file, text in made), as_json, len(files) == 1)
