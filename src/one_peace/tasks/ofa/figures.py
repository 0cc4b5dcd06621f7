"""Figures of what a sequence-to-sequence model writes.

A model's answer is a value (a text, a box relative to its picture, a likelihood), and an example's facts are what it is
held against: so the same figures can be asked of other examples' facts, and of one answer for all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from one_peace.objectives.boxes import box_iou
from one_peace.tasks.caption_metrics.cider import cider_d
from one_peace.tasks.caption_metrics.figures import caption_figures
from one_peace.tasks.caption_metrics.ptb import tokenize, without_punctuation
from one_peace.tasks.grounding import FOUND
from one_peace.tasks.metrics import consensus_accuracy
from one_peace.tasks.summary_metrics import gigaword_figures

Facts = Mapping[str, Any]


class WrittenFigures(ABC):
    """Answers and facts of examples, added up; `main` selects the best model. `labels` are all that may be answered,
    where that is known."""

    main: ClassVar[str] = "accuracy"

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)
        self.values: list[Any] = []
        self.facts: list[Facts] = []

    def add(self, value: Any, facts: Facts) -> None:
        """The answer to one example."""
        self.values.append(value)
        self.facts.append(facts)

    def result(self) -> dict[str, float]:
        """Figures by name, `main` first. `ValueError` without a single example."""
        if not self.values:
            raise ValueError("no examples were scored")
        return self.measure(self.values)

    def counted(self, figure: str) -> int:
        """How many examples a figure of `result` is of: all, unless some have nothing to be held against."""
        return len(self.values)

    def shuffled(self) -> dict[str, float]:
        """The figures where each answer is held against the facts of the example before it, which has to be any."""
        other = type(self)(self.labels)
        other.values, other.facts = self.values[1:], self.facts[:-1]
        return other.result() if other.values else {}

    def constant(self) -> float | None:
        """The main figure of the one answer that serves best, None where there is no such thing."""
        best = self.best_constant()
        return None if best is None else self.watch([best] * len(self.facts))[self.main]

    def watched(self) -> dict[str, float]:
        """The figures that training looks at, which are quick to compute. Errors as of `result`."""
        if not self.values:
            raise ValueError("no examples were scored")
        return self.watch(self.values)

    def watch(self, values: Sequence[Any]) -> dict[str, float]:
        """Those of these answers."""
        return self.measure(values)

    @abstractmethod
    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        """Figures of these answers to the examples."""

    def best_constant(self) -> Any:
        """The one answer that serves best."""
        return None


class CaptionFigures(WrittenFigures):
    """CIDEr and its kin; facts have `references`, as people wrote them.

    As published, captions lose their punctuation before they are compared, and what a run watches is of references
    without it, too.
    """

    main = "CIDEr"

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        captions = {str(number): without_punctuation(value) for number, value in enumerate(values)}
        references = {str(number): facts["references"] for number, facts in enumerate(self.facts)}
        return caption_figures(captions, references)

    def watch(self, values: Sequence[Any]) -> dict[str, float]:
        words = [_bare_words(value) for value in values]
        references = [[_bare_words(text) for text in facts["references"]] for facts in self.facts]
        return {"CIDEr": sum(cider_d(words, references)) / len(words)}

    def best_constant(self) -> str:
        """The reference that stands for most pictures, which few share a word with."""
        return Counter(text for facts in self.facts for text in facts["references"]).most_common(1)[0][0]


class BoxFigures(WrittenFigures):
    """Share of boxes that overlap the right one by half or more (of their union), and the mean overlap.

    Values are (4,) relative to the picture; facts have `box` in pixels and `size`.
    """

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        # Relative to the picture both boxes are stretched alike, which changes no ratio of areas.
        overlaps = box_iou(torch.stack(list(values)), self._boxes())
        return {"accuracy": float((overlaps >= FOUND).double().mean()), "overlap": float(overlaps.mean())}

    def _boxes(self) -> Tensor:
        return torch.stack([facts["box"] / torch.tensor([*facts["size"], *facts["size"]]) for facts in self.facts])

    def best_constant(self) -> Tensor:
        return self._boxes().median(dim=0).values


class AnswerFigures(WrittenFigures):
    """`accuracy` is the score that the references give an answer; where all annotators' answers are known, `consensus`
    is the benchmark's accuracy. Facts have `scores`, and `annotators` or not."""

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        soft = [facts["scores"].get(value, 0.0) for value, facts in zip(values, self.facts, strict=True)]
        figures = {"accuracy": sum(soft) / len(soft)}
        known = [(v, f["annotators"]) for v, f in zip(values, self.facts, strict=True) if "annotators" in f]
        if known:
            figures["consensus"] = sum(consensus_accuracy(value, given) for value, given in known) / len(known)
        return figures

    def counted(self, figure: str) -> int:
        return sum("annotators" in facts for facts in self.facts) if figure == "consensus" else len(self.values)

    def best_constant(self) -> str | None:
        counts: Counter[str] = Counter()
        for facts in self.facts:
            counts.update(facts["scores"])
        return max(counts, key=counts.__getitem__, default=None)


class LabelFigures(WrittenFigures):
    """Share of right labels. Of two labels the second in order is the positive one: `f1` is its F1, and `matthews` the
    correlation (CoLA). Facts have `answer`."""

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        wanted = [facts["answer"] for facts in self.facts]
        count, pairs = len(wanted), list(zip(values, wanted, strict=True))
        figures = {"accuracy": sum(value == answer for value, answer in pairs) / count}
        labels = sorted({*self.labels, *wanted, *values})
        if len(labels) > 2:
            return figures
        positive = labels[-1]
        hits = sum(value == answer == positive for value, answer in pairs)
        told, true = list(values).count(positive), wanted.count(positive)
        figures["f1"] = 2 * hits / (told + true) if told + true else 0.0
        spread = math.sqrt(told * (count - told) * true * (count - true))
        figures["matthews"] = (hits * count - told * true) / spread if spread else 0.0
        return figures

    def best_constant(self) -> str:
        return Counter(facts["answer"] for facts in self.facts).most_common(1)[0][0]


class SummaryFigures(WrittenFigures):
    """ROUGE F1 as published for Gigaword; facts have `reference`."""

    main = "rougeL"

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        figures = gigaword_figures([str(value) for value in values], [facts["reference"] for facts in self.facts])
        return {self.main: figures[self.main], **figures}


class LikelihoodFigures(WrittenFigures):
    """How likely targets are, for what has no right answer. Values are (log-likelihood, tokens, tokens that were the
    likeliest): `likelihood` is the geometric mean over tokens, `accuracy` the share of likeliest ones."""

    main = "likelihood"

    def shuffled(self) -> dict[str, float]:
        return {}  # other targets would have to be read anew

    def measure(self, values: Sequence[Any]) -> dict[str, float]:
        likelihood, tokens, right = (sum(column) for column in zip(*values, strict=True))
        return {"likelihood": math.exp(likelihood / tokens), "accuracy": right / tokens}


def _bare_words(caption: str) -> list[str]:
    return tokenize(without_punctuation(caption))
