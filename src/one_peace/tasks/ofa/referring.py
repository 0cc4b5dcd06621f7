"""Where in a picture the thing is that a phrase refers to (RefCOCO), written as the corners of its box."""

from __future__ import annotations

import torch

from one_peace.models.ofa import prompts
from one_peace.tasks.grounding import box_inside
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.task import SequenceTask, cleaned
from one_peace.tasks.task import Row, has


class Referring(SequenceTask):
    """Rows have `image`, `text` and `region_coord`: x0,y0,x1,y1 in pixels of the picture."""

    columns = ("image", "text")
    target_columns = ("region_coord",)

    def example(self, row: Row, key: str) -> SequenceExample:
        image = self.picture(row, key)
        phrase = cleaned(row, "text", key, prompts.MAX_WORDS)
        ratios = torch.tensor([self.pictures.size / side for side in image.size])
        box = box_inside(row["region_coord"], key, image.size) if has(row, "region_coord") else None
        answer = None if box is None else self.vocabulary.boxes_to_ids(box * ratios.repeat(2)).tolist()
        parts = with_target(self.vocabulary.encode(prompts.LOCATE.format(phrase)), answer)
        facts = {"phrase": phrase, "ratios": ratios, "box": box, "size": image.size}
        return SequenceExample(key, pixels=self.pictures(image), facts=facts, **parts)
