"""A benchmark's figures without knowing the inputs: against other examples' targets, and of one answer for all."""

from __future__ import annotations

import torch
from torch import Tensor

from one_peace.objectives.boxes import box_iou
from one_peace.tasks.grounding import FOUND, Grounding
from one_peace.tasks.task import Figures, Task, TaskBatch
from one_peace.tasks.visual_question_answering import VisualQuestionAnswering


class ShuffledFigures:
    """A task's figures where each example is held against the target of the one before.

    Examples have to come in random order. The first one has none before it and does not count.
    """

    def __init__(self, task: Task) -> None:
        self.figures: Figures = task.figures()
        self.before: TaskBatch | None = None
        self.examples = 0

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        """One batch with its targets. scores (examples * candidates, outputs), as the model gives them."""
        assert batch.target is not None
        kept = len(batch.keys) if self.before is not None else len(batch.keys) - 1
        if kept:
            targets, facts = batch.target[:-1], batch.facts[:-1]
            if self.before is not None:
                assert self.before.target is not None
                targets = torch.cat([self.before.target[-1:], targets])
                facts = [self.before.facts[-1], *facts]
            rows = kept * (len(scores) // len(batch.keys))
            self.figures.add(scores[-rows:], TaskBatch(batch.keys[-kept:], {}, targets, facts))
            self.examples += kept
        self.before = TaskBatch(batch.keys[-1:], {}, batch.target[-1:], batch.facts[-1:])

    def result(self) -> dict[str, float]:
        """Figures by name, none of less than two examples, or where no target counts."""
        try:
            return self.figures.result() if self.examples else {}
        except ValueError:  # no class with a positive example, say
            return {}


class BestConstant:
    """The main figure of the one answer that serves best: the most frequent class or place among the candidates, the
    answer with most confidence, the box of median corners. None where no constant scores make an answer."""

    def __init__(self, task: Task) -> None:
        self.boxes, self.soft = isinstance(task, Grounding), isinstance(task, VisualQuestionAnswering)
        self.kept: list[Tensor] = []
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.examples = 0

    def add(self, batch: TaskBatch) -> None:
        """The targets of one batch."""
        assert batch.target is not None
        target = batch.target
        self.examples += len(target)
        if self.boxes:
            self.kept.append(target)
            return
        if target.is_floating_point():
            summed = target.double().sum(dim=0)
        else:
            summed = torch.bincount(target).double()
            self.soft = True
        longer = max(len(summed), len(self.sums))
        self.sums = torch.nn.functional.pad(self.sums, (0, longer - len(self.sums)))
        self.sums[: len(summed)] += summed

    def result(self) -> float | None:
        """The figure, a share of the examples."""
        if not self.examples:
            return None
        if self.boxes:
            boxes = torch.cat(self.kept)
            median = boxes.median(dim=0).values.expand_as(boxes)
            return float((box_iou(median, boxes) >= FOUND).double().mean())
        return float(self.sums.max()) / self.examples if self.soft else None
