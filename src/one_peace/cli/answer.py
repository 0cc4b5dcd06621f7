"""`one-peace answer`: a question about pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli import written


def answer(
    question: Annotated[str, typer.Argument(help="What to ask about each picture.")],
    pictures: written.Pictures,
    model: written.Model,
    answers: Annotated[Path | None, typer.Option(help="All that may be answered: .json or .txt.")] = None,
    as_json: written.Json = False,
    beams: written.Beams = 5,
    tokenizer: written.Vocabulary = None,
    device: written.Device = "cpu",
    dtype: written.Dtype = "float32",
    skip: written.Skip = False,
) -> None:
    """Answer a question about pictures with an OFA model."""
    from one_peace.tasks.labels import LabelMap

    files = written.pictures_in(pictures)
    given = None if answers is None else LabelMap.read(answers).names
    ofa = written.open_ofa(model, device, dtype, tokenizer)
    made = written.answered(files, partial(ofa.answer, questions=question, answers=given, beams=beams), skip)
    lines = ((file, {"question": question, "answer": text}, text) for file, text in made)
    written.print_lines(lines, as_json, len(files) == 1)
