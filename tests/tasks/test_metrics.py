"""Figures against independent implementations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.data.published.answers import normalise_answer
from one_peace.tasks.metrics import average_precision, consensus_accuracy


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30).filter(
        lambda r: any(p for _, p in r)
    )
)
def test_average_precision_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    """Few distinct scores, so many ties."""
    from sklearn.metrics import average_precision_score

    scores, positive = torch.tensor([float(s) for s, _ in rows]), torch.tensor([p for _, p in rows])
    expected = average_precision_score(positive.numpy(), scores.numpy())
    assert average_precision(scores, positive) == pytest.approx(expected, abs=1e-9)


def test_average_precision_by_hand() -> None:
    # positives at ranks 1 and 3: precision 1 and 2/3, half of the recall each
    assert average_precision(torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([1, 0, 1, 0]).bool()) == pytest.approx(
        5 / 6
    )
    # all equal: one step at the share of positives
    assert average_precision(torch.zeros(4), torch.tensor([1, 0, 0, 0]).bool()) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="without positive"):
        average_precision(torch.zeros(2), torch.zeros(2).bool())


@pytest.mark.parametrize(
    ("given", "compared"),
    [
        ("The Dog.", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("1,000 people", "1000 people"),
        ("3.5", "3.5"),
        ("black/white", "black white"),
        ("yes , it is", "yes it is"),
        ("black/white /grey", "blackwhite grey"),
        ("black/white/ grey", "blackwhite grey"),
        ("a", ""),
        ("theres\ta cat\n", "there's cat"),
    ],
)
def test_answers_are_compared_in_one_form(given: str, compared: str) -> None:
    assert normalise_answer(given) == compared


@pytest.mark.parametrize(("agreeing", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_consensus_of_ten_annotators(agreeing: int, expected: float) -> None:
    """Each annotator is left out once: k times min(1, (k-1)/3) and 10-k times min(1, k/3)."""
    annotators = ["dog"] * agreeing + [f"other {k}" for k in range(10 - agreeing)]
    assert consensus_accuracy("dog", annotators) == pytest.approx(expected)


def test_answers_are_normalised_only_where_annotators_differ() -> None:
    assert consensus_accuracy("a dog", ["dog"] * 10) == 0.0
    assert consensus_accuracy("a dog", ["dog"] * 9 + ["cat"]) == 1.0
    with pytest.raises(ValueError, match="no annotators"):
        consensus_accuracy("dog", [])
