"""`one-peace locate`: where in pictures something is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from one_peace.cli import written


def locate(
    phrase: Annotated[str, typer.Argument(help="What to look for in each picture.")],
    pictures: written.Pictures,
    model: written.Model,
    draw: Annotated[Path | None, typer.Option(help="Also draw the boxes on copies in this folder.")] = None,
    as_json: written.Json = False,
    beams: written.Beams = 5,
    tokenizer: written.Vocabulary = None,
    device: written.Device = "cpu",
    dtype: written.Dtype = "float32",
    skip: written.Skip = False,
) -> None:
    """Find the box of what a phrase means, with an OFA model: left, top, right and bottom in pixels."""
    from one_peace.tasks.drawn_boxes import draw_box

    files = written.pictures_in(pictures)
    ofa = written.open_ofa(model, device, dtype, tokenizer)
    made = written.answered(files, partial(ofa.locate, phrases=phrase, beams=beams), skip)

    def lines() -> Iterator[tuple[Path, dict[str, Any], str]]:
        for number, (file, found) in enumerate(made, 1):
            box = [round(side, 1) for side in found]
            values: dict[str, Any] = {"phrase": phrase, "box": box}
            if draw is not None:
                draw.mkdir(parents=True, exist_ok=True)
                place = draw / f"{number:06d}-{file.stem}.png"
                draw_box(file, box, phrase).save(place)
                values["drawn"] = str(place)
            yield file, values, " ".join(f"{side:g}" for side in box)

    written.print_lines(lines(), as_json, len(files) == 1)
