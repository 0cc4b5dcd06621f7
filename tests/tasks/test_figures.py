"""Every figure of a task, batch by batch, against an independent implementation: ties, empty classes, annotators."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from one_peace.data.published.answers import normalise_answer
from one_peace.tasks.audio_question_answering import ChoiceAccuracy
from one_peace.tasks.caption_metrics.figures import caption_figures
from one_peace.tasks.classification import Accuracy, MeanAveragePrecision
from one_peace.tasks.grounding import Overlap
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.metrics import consensus_accuracy
from one_peace.tasks.ofa.figures import AnswerFigures, CaptionFigures, LabelFigures
from one_peace.tasks.reasoning import Truth
from one_peace.tasks.task import Figures, TaskBatch
from one_peace.tasks.visual_question_answering import AnswerAccuracy

seeds = st.integers(0, 10_000)


def batch(target: Tensor, facts: list[dict[str, Any]] | None = None) -> TaskBatch:
    return TaskBatch([f"row {k}" for k in range(len(target))], {}, target, facts or [{}] * len(target))


def measured(figures: Figures, scores: Tensor, target: Tensor, size: int = 3, **facts: Any) -> dict[str, float]:
    """The figures of scores that come in batches; each target may have several rows of scores."""
    each = len(scores) // len(target)
    told = facts.get("facts") or [{}] * len(target)
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        figures.add(scores[start * each : (start + size) * each], batch(target[part], told[part]))
    return figures.result()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("no", "yes"), {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}),
        (("maybe", "no", "yes"), {"accuracy": 1.0}),
    ],
)
def test_the_positive_label_is_that_of_the_question(labels: tuple[str, ...], expected: dict[str, float]) -> None:
    """Whichever of its labels a table happens to have."""
    figures = LabelFigures(labels)
    for _ in range(3):
        figures.add("no", {"answer": "no"})
    assert figures.result() == expected and figures.shuffled() == expected


@settings(deadline=None, max_examples=20)
@given(seed=seeds, rows=st.integers(1, 12), classes=st.integers(6, 9))
def test_accuracy_is_that_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    from sklearn.metrics import accuracy_score, top_k_accuracy_score

    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, classes, generator=generator)
    target = torch.randint(classes, (rows,), generator=generator)
    names = list(range(classes))
    expected = {
        "accuracy": accuracy_score(target, scores.argmax(dim=1)),
        "accuracy@5": top_k_accuracy_score(target, scores, k=5, labels=names),
    }
    assert measured(Accuracy(), scores, target) == pytest.approx(expected)
    two, four = scores[:, :2], scores[:, :4]
    truth = accuracy_score(target % 2, two.argmax(dim=1))
    assert measured(Truth(), two, target % 2) == pytest.approx({"accuracy": truth})
    choice = accuracy_score(target % 4, four.argmax(dim=1))
    assert measured(ChoiceAccuracy(), four.reshape(-1, 1), target % 4) == pytest.approx({"accuracy": choice})


def test_of_equal_scores_the_first_class_is_the_answer() -> None:
    """So a model that tells nothing apart gets what its first class gets, on any machine."""
    target = torch.tensor([0, 1, 4, 5, 6])
    assert measured(Accuracy(), torch.zeros(5, 200), target) == pytest.approx({"accuracy": 0.2, "accuracy@5": 0.6})


@settings(deadline=None, max_examples=40)
@given(seed=seeds, rows=st.integers(1, 12), classes=st.integers(1, 5))
def test_mean_average_precision_is_that_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    """Scores of three values, so many ties; classes that no row has do not count."""
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(3, (rows, classes), generator=generator).float()
    target = (torch.rand(rows, classes, generator=generator) < 0.3).float()
    seen = target.any(dim=0)
    if not bool(seen.any()):
        with pytest.raises(ValueError, match="no example has a label"):
            measured(MeanAveragePrecision(), scores, target)
        return
    expected = average_precision_score(target[:, seen].numpy(), scores[:, seen].numpy(), average="macro")
    found = measured(MeanAveragePrecision(), scores, target)
    assert found == pytest.approx({"map": expected, "classes": int(seen.sum())})


@settings(deadline=None, max_examples=40)
@given(seed=seeds, rows=st.integers(1, 10))
def test_overlap_is_that_of_the_coco_tools(seed: int, rows: int) -> None:
    from faster_coco_eval.core import mask

    generator = np.random.default_rng(seed)
    corners = generator.uniform(0.05, 0.95, (2, rows, 2, 2))
    predicted, right = np.sort(corners, axis=2).reshape(2, rows, 4)
    sizes = [np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1) for boxes in (predicted, right)]
    expected = np.diag(mask.iou(sizes[0], sizes[1], [0] * rows))
    scores = torch.logit(torch.tensor(predicted, dtype=torch.float64))
    found = measured(Overlap(), scores.float(), torch.tensor(right).float())
    assert found["overlap"] == pytest.approx(expected.mean(), abs=1e-4)
    if np.abs(expected - 0.5).min() > 1e-4:
        assert found["accuracy"] == pytest.approx((expected >= 0.5).mean())


WORDS = ["dog", "a dog", "the dog.", "2", "two", "None", "yes", "Yes,", "dont", "1,000 men", "black/white", "3.5"]


def plain_form(answer: str) -> str:
    """The published rules once more, sign by sign: see the evaluation code of visualqa.org."""
    marks, text = set(';/[]"{}()=+\\_-><@`,?!'), answer.replace("\n", " ").replace("\t", " ").strip()
    grouped = bool(re.search("[0-9],[0-9]", text))
    removed = {m for m in marks if grouped or m + " " in text or " " + m in text}
    signs = ["" if sign in removed else " " if sign in marks else sign for sign in text]
    joined = "".join(signs)
    kept = [sign for k, sign in enumerate(joined) if sign != "." or joined[k + 1 : k + 2].isdigit()]
    counted = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    forms = {word: str(number) for number, word in enumerate(counted)} | {"none": "0", "dont": "don't"}
    words = [word for word in "".join(kept).lower().split() if word not in ("a", "an", "the")]
    return " ".join(forms.get(word, word) for word in words)


@settings(deadline=None)
@given(st.text(alphabet='aeT dog21,./-?!\t"one', max_size=14))
def test_answers_have_one_form(answer: str) -> None:
    assert normalise_answer(answer) == plain_form(answer)


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=10, max_size=10), st.sampled_from(WORDS))
def test_consensus_is_the_mean_over_nine_of_ten(annotators: list[str], answer: str) -> None:
    """The rule as the benchmark states it: over all ways to take nine of the ten, min(1, how many agree / 3)."""
    compared, given_answer = annotators, answer
    if len(set(annotators)) > 1:
        compared, given_answer = [plain_form(a) for a in annotators], plain_form(answer)
    expected = np.mean([min(1.0, nine.count(given_answer) / 3) for nine in combinations(compared, 9)])
    assert consensus_accuracy(answer, annotators) == pytest.approx(expected)


def test_blanks_around_answers_never_count() -> None:
    assert consensus_accuracy("dog\n", [" dog"] * 10) == 1.0


def test_questions_are_scored_by_confidence_and_by_annotators() -> None:
    answers = LabelMap(["yes", "no", "2"])
    target = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.0, 0.6], [0.0, 0.9, 0.0]])
    scores = torch.tensor([[0.0, 5.0, 1.0], [0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])  # no, 2, and a tie: the first
    facts = [{"annotators": ["yes"] * 9 + ["no"]}, {"annotators": ["two"] * 4 + ["3"] * 6}, {}]
    found = measured(AnswerAccuracy(answers), scores, target, facts=facts)
    assert found == pytest.approx({"accuracy": (0.3 + 0.6 + 0.0) / 3, "consensus": (0.3 + 1.0) / 2})


def test_each_figure_of_answers_says_how_many_it_is_of() -> None:
    answers = LabelMap(["yes", "no"])
    facts: list[dict[str, Any]] = [{"annotators": ["yes"]}, {}, {"annotators": ["no"]}]
    chosen = AnswerAccuracy(answers)
    chosen.add(torch.eye(3, 2), TaskBatch(list("abc"), {}, torch.eye(3, 2), facts))
    written = AnswerFigures()
    for number, fact in enumerate(facts):
        written.add("yes", {"scores": {"yes": float(number)}, **fact})
    for name, count in (("accuracy", 3), ("consensus", 2)):
        assert chosen.counted(name, 3) == written.counted(name) == count


def test_captions_without_punctuation_are_held_against_what_people_wrote() -> None:
    """As the published evaluation has it: only the predictions lose theirs."""
    written = ["a man's t-shirt, black-and-white.", "two dogs!"]
    references = [["A man's T-shirt, black-and-white."], ["Two dogs (one is small)."]]
    figures = CaptionFigures()
    for caption, texts in zip(written, references, strict=True):
        figures.add(caption, {"references": texts})
    bare = {"0": "a mans tshirt blackandwhite", "1": "two dogs"}
    expected = caption_figures(bare, dict(zip("01", references, strict=True)))
    assert figures.result() == expected and expected["ROUGE_L"] < 0.7
    assert figures.watched()["CIDEr"] > expected["CIDEr"], "both sides without punctuation, as runs are watched"
