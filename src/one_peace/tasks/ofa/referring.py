"""Where in a picture the thing is that a phrase refers to (RefCOCO), written as the corners of its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from one_peace.generation.constraints import Constraint, TokenRange
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.grounding import box_inside
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.figures import BoxFigures, WrittenFigures
from one_peace.tasks.ofa.task import PICTURES, PictureForm, SequenceTask, cleaned
from one_peace.tasks.task import Row, has


class Referring(SequenceTask):
    """Rows have `image`, `text` and `region_coord`: x0,y0,x1,y1 in pixels of the picture."""

    columns = ("image", "text")
    target_columns = ("region_coord",)
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=5, min_tokens=4, max_tokens=4)

    def __init__(self, vocabulary: OfaVocabulary, pictures: PictureForm = PICTURES) -> None:
        """`ValueError` for pictures that are larger than boxes reach."""
        super().__init__(vocabulary, pictures)
        vocabulary.check_boxes(pictures.size)

    def example(self, row: Row, key: str) -> SequenceExample:
        image = self.picture(row, key)
        phrase = cleaned(row, "text", key, prompts.MAX_WORDS)
        ratios = torch.tensor([self.pictures.size / side for side in image.size])
        box = box_inside(row["region_coord"], key, image.size) if has(row, "region_coord") else None
        answer = None if box is None else self.vocabulary.boxes_to_ids(box * ratios.repeat(2)).tolist()
        parts = with_target(self.vocabulary.encode(prompts.LOCATE.format(phrase)), answer)
        facts = {"phrase": phrase, "ratios": ratios, "box": box, "size": image.size}
        return SequenceExample(key, pixels=self.pictures(image), facts=facts, **parts)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return BoxFigures(answers)

    def constraint(self, answers: Sequence[str]) -> Constraint:
        return TokenRange(self.vocabulary.first_bin, self.vocabulary.size, specials_at_end=True)

    def value(self, tokens: Sequence[int]) -> Tensor:
        """Corners of the box relative to the picture, (4,) float32."""
        if len(tokens) < 4:
            return torch.zeros(4)
        corners = self.vocabulary.ids_to_boxes(torch.tensor(tokens[:4])) / self.pictures.size
        return corners.clamp(0.0, 1.0)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        """The box in pixels of the picture."""
        facts = example.facts
        corners = (value * torch.tensor([*facts["size"], *facts["size"]])).view(2, 2)
        low, high = corners.sort(dim=0).values.tolist()  # nothing keeps a model from writing it inside out
        return {"phrase": facts["phrase"], "box": [round(v, 1) for v in (*low, *high)]}
