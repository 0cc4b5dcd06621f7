"""Where in a picture the thing is that a phrase refers to (RefCOCO), written as the corners of its box."""

from __future__ import annotations

import torch
from torch import Tensor

from one_peace.models.ofa.vocabulary import clean_text
from one_peace.tasks.sequence.example import SequenceExample, with_target
from one_peace.tasks.sequence.task import SequenceTask
from one_peace.tasks.task import BadRow, Row, column

MAX_WORDS = 80


class Referring(SequenceTask):
    """Rows have `image`, `text` and `region_coord`: x0,y0,x1,y1 in pixels of the picture."""

    columns = ("image", "text")

    def example(self, row: Row, key: str) -> SequenceExample:
        image = self.picture(row, key)
        phrase = clean_text(str(column(row, "text", key)), MAX_WORDS)
        ratios = torch.tensor([self.pictures.size / side for side in image.size])
        box = parse_box(row["region_coord"], key) if row.get("region_coord") else None
        answer = None if box is None else self.vocabulary.boxes_to_ids(box * ratios.repeat(2)).tolist()
        prompt = f' which region does the text " {phrase} " describe?'
        parts = with_target(self.vocabulary.encode(prompt), answer)
        facts = {"phrase": phrase, "ratios": ratios, "box": box, "size": image.size}
        return SequenceExample(key, pixels=self.pictures(image), facts=facts, **parts)

    def box(self, tokens: list[int], ratios: Tensor) -> Tensor:
        """Corners (4,) in pixels of the original picture of four generated tokens; further ones are ignored."""
        if len(tokens) < 4:
            raise ValueError(f"a box has four tokens, got {tokens}")
        return self.vocabulary.ids_to_boxes(torch.tensor(tokens[:4])) / ratios.repeat(2)


def parse_box(value: object, key: str) -> Tensor:
    """x0,y0,x1,y1 as (4,) float32. `BadRow` for anything else."""
    try:
        corners = [float(part) for part in str(value).split(",")]
        if len(corners) != 4:
            raise ValueError
    except ValueError as error:
        raise BadRow(key, f"column 'region_coord': {str(value)!r:.60} is not x0,y0,x1,y1") from error
    x0, y0, x1, y1 = corners
    if not (x0 < x1 and y0 < y1):
        raise BadRow(key, f"column 'region_coord': box {x0:g},{y0:g},{x1:g},{y1:g} has no area or a negative one")
    return torch.tensor(corners, dtype=torch.float32)
