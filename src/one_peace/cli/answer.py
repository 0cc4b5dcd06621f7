"""`one-peace answer`: a question about pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
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


def answer(
    question: Annotated[str, typer.Argument(help="What to ask about each picture.")],
    pictures: Pictures,
    model: Model,
    answers: Annotated[Path | None, typer.Option(help="All that may be answered: .json or .txt.")] = None,
    as_json: Json = False,
    beams: Beams = 5,
    tokenizer: Vocabulary = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    skip: Skip = False,
) -> None:
    """Answer a question about pictures with an OFA model."""
    from one_peace.tasks.labels import LabelMap

    files = pictures_in(pictures)
    given = None if answers is None else LabelMap.read(answers).names
    ofa = open_ofa(model, device, dtype, tokenizer)
    made = answered(files, partial(ofa.answer, questions=question, answers=given, beams=beams), skip)
    lines = ((file, {"question": question, "answer": text}, text) for file, text in made)
    print_lines(lines, as_json, len(files) == 1)
