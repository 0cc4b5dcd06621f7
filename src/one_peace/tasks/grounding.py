"""Where in a picture the thing is that a phrase refers to (RefCOCO, paper section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture, grounding_boxes, image_tensor
from one_peace.modalities.base import Processor
from one_peace.modalities.image import ImageProcessor
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.config import HeadConfig
from one_peace.objectives.boxes import box_iou, grounding_loss
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, has, prepare, text_of

FOUND = 0.5  # overlap from which a box counts as right


class Grounding(Task):
    """Rows have `image`, `text` and `region_coord`: x0,y0,x1,y1 in pixels of the picture. The head gives the corners
    relative to the picture, before a sigmoid; it reads the picture's features, or with `reads="text"` the phrase's
    (published for RefCOCOg)."""

    modalities = ("text", "image")
    columns = ("image", "text")
    target_columns = ("region_coord",)

    def __init__(self, processors: Mapping[str, Processor], reads: str = "image") -> None:
        super().__init__(processors)
        self.reads = reads

    def head(self, width: int) -> HeadConfig:
        return HeadConfig(4, self.reads, "attention", hidden=2 * width)

    def example(self, row: Row, key: str) -> TaskExample:
        text, image = self.processors["text"], self.processors["image"]
        assert isinstance(text, TextProcessor) and isinstance(image, ImageProcessor)
        phrase = text_of(row, "text", key)
        try:
            picture = decode_picture(column(row, "image", key))
        except InputError as error:
            raise BadRow(key, f"column 'image': {error.problem}") from error
        size = picture.size
        target = None
        if has(row, "region_coord"):
            target = grounding_boxes(box_inside(row["region_coord"], key, size)[None], *size)[0]
        inputs = {
            "text": [prepare(text.of_tokens, text.tokenizer.encode_expression(phrase), "text", key)],
            "image": [{"pixels": image_tensor(picture, image.config.image_size)}],
        }
        return TaskExample(key, inputs, target, {"phrase": phrase, "size": size})

    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        """The mean loss of the batch times its size, so that the trainer's division gives the mean again."""
        assert batch.target is not None
        return len(scores) * grounding_loss(scores.sigmoid(), batch.target)

    def figures(self) -> Figures:
        return Overlap()

    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """The box in pixels of the picture, inside it."""
        made = []
        for box, facts in zip(scores.float().sigmoid().tolist(), batch.facts, strict=True):
            width, height = facts["size"]
            corners = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
            x0, x1 = sorted((corners[0], corners[2]))
            y0, y1 = sorted((corners[1], corners[3]))
            made.append({"phrase": facts["phrase"], "box": [round(v, 1) for v in (x0, y0, x1, y1)]})
        return made


class Overlap(Figures):
    """Share of boxes that overlap the right one by at least half (of their union), and the mean overlap."""

    def __init__(self) -> None:
        self.overlaps: list[float] = []

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        assert batch.target is not None
        # Relative to the picture both boxes are stretched alike, which changes no ratio of areas.
        self.overlaps += box_iou(scores.float().sigmoid(), batch.target).tolist()

    def result(self) -> dict[str, float]:
        if not self.overlaps:
            raise ValueError("no examples were scored")
        found = sum(overlap >= FOUND for overlap in self.overlaps)
        return {"accuracy": found / len(self.overlaps), "overlap": sum(self.overlaps) / len(self.overlaps)}


def parse_box(value: object, key: str, name: str = "region_coord") -> Tensor:
    """x0,y0,x1,y1 as (4,) float32. `BadRow` for anything else, and for a box without area."""
    try:
        x0, y0, x1, y1 = (float(part) for part in str(value).split(","))
    except ValueError as error:
        raise BadRow(key, f"column {name!r}: {str(value)!r:.60} is not x0,y0,x1,y1") from error
    if not (-math.inf < x0 < x1 < math.inf and -math.inf < y0 < y1 < math.inf):
        raise BadRow(key, f"column {name!r}: box {x0:g},{y0:g},{x1:g},{y1:g} has no area, or not a finite one")
    return torch.tensor([x0, y0, x1, y1])


def box_inside(value: object, key: str, size: tuple[int, int]) -> Tensor:
    """The same of a picture of `size`, width and height in pixels. `BadRow` for a box that is not inside it."""
    box, (width, height) = parse_box(value, key), size
    # Published boxes may reach over the edge by a rounded pixel.
    if bool((box < -1).any()) or bool((box > torch.tensor([*size, *size]) + 1).any()):
        shown = ",".join(f"{corner:g}" for corner in box.tolist())
        problem = f"box {shown} is not inside the picture of {width} x {height} pixels"
        raise BadRow(key, f"column 'region_coord': {problem}")
    return box
