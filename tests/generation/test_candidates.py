"""Scores of given answers against scoring them one by one."""

from __future__ import annotations

import pytest
import torch

from generation.toy_decoder import END, START, ToyDecoder
from one_peace.generation.candidates import score_candidates

CANDIDATES = [[6, 3], [3], [3, 4, 5], [7, 7, 7, 7], [3, 4], [5]]
PROMPTS = [[START], [START, 4, 4, 6], [START, 7], [START, 5]]


def one_by_one(index: int, prompt: list[int], candidate: list[int]) -> float:
    """Teacher forcing, each step over what some candidate allows there."""
    decoder = ToyDecoder(len(PROMPTS))
    decoder.reorder(torch.tensor([index]))
    logits, total = decoder.step(torch.tensor([prompt])), 0.0
    for place, token in enumerate([*candidate, END]):
        ways = {([*other, END])[place] for other in CANDIDATES if [*other, END][:place] == candidate[:place]}
        total += float(logits[0, token] - logits[0, sorted(ways)].logsumexp(0))
        logits = decoder.step(torch.tensor([[token]]))
    return total


@pytest.mark.parametrize("max_rows", [1, 9, 1000])
def test_every_candidate_of_every_input(max_rows: int) -> None:
    begun = []

    def begin() -> ToyDecoder:
        begun.append(ToyDecoder(len(PROMPTS)))
        return begun[-1]

    scores = score_candidates(begin, PROMPTS, CANDIDATES, end=END, max_rows=max_rows)
    expected = [[one_by_one(i, prompt, candidate) for candidate in CANDIDATES] for i, prompt in enumerate(PROMPTS)]
    torch.testing.assert_close(scores, torch.tensor(expected))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(PROMPTS)))
    assert max(rows for decoder in begun for rows in decoder.rows) <= max(max_rows, 4 * len(PROMPTS))
    assert len(begun) == {1: 6, 9: 3, 1000: 1}[max_rows]


def test_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="start token"):
        score_candidates(lambda: ToyDecoder(1), [[]], CANDIDATES, end=END)
    with pytest.raises(ValueError, match="trie"):
        score_candidates(lambda: ToyDecoder(1), [[START]], [], end=END)
