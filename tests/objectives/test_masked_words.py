"""Hidden words, and who sees whom."""

from __future__ import annotations

import random

import pytest
import torch

from one_peace.objectives.masked_words import IGNORED, answer_mask, causal_mask, hide_words

WORDS = range(106, 500)


def test_first_token_and_padding_stay() -> None:
    tokens = torch.tensor([[101, *range(200, 218), 102], [101, 200, 102] + [0] * 17]).repeat(50, 1)
    shown, labels = hide_words(tokens, 0.6, random.Random(0), mask_id=103, words=WORDS)
    hidden = labels != IGNORED
    assert not bool(hidden[:, 0].any()) and not bool(hidden[tokens == 0].any())
    assert bool(hidden.any(dim=1).all())
    assert torch.equal(labels[hidden], tokens[hidden]) and torch.equal(shown[~hidden], tokens[~hidden])
    long = hidden[::2, 1:].float().mean()
    assert abs(long - 0.6) < 0.05
    assert abs((shown[hidden] == 103).float().mean() - 0.8) < 0.05
    others = shown[hidden & (shown != 103) & (shown != tokens)]
    assert int(others.min()) >= WORDS.start and int(others.max()) < WORDS.stop


def test_what_cannot_be_hidden_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to hide"):
        hide_words(torch.tensor([[101, 0]]), 0.6, random.Random(0), mask_id=103, words=WORDS)
    with pytest.raises(ValueError, match="above 0"):
        hide_words(torch.tensor([[101, 5]]), 0.0, random.Random(0), mask_id=103, words=WORDS)


def test_masks() -> None:
    assert causal_mask(torch.tensor([[1, 1, 0]]))[0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    seen = answer_mask(torch.tensor([[1, 0]]), torch.tensor([[1, 1]]))[0].tolist()
    assert seen == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
