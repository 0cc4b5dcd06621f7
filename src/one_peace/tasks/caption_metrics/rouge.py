"""ROUGE-L (Lin 2004): the words that a caption shares with a reference in the same order."""

from __future__ import annotations

from collections.abc import Sequence

_RECALL_WEIGHT = 1.2  # of the caption evaluation


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Words that both have in the same order."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if word == other else max(row[-1], before[place + 1]))
    return row[-1]


def caption_rouge(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of a caption as the COCO caption evaluation computes it: the best precision and the best recall of all
    references, which may be two different ones."""
    if not references:
        raise ValueError("a caption needs at least one reference")
    # Published: a caption without words counts as one empty word.
    shared = [longest_common_subsequence(hypothesis, reference) for reference in references]
    precision = max(shared) / max(1, len(hypothesis))
    recall = max(count / max(1, len(reference)) for count, reference in zip(shared, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _RECALL_WEIGHT**2) * precision * recall / (recall + _RECALL_WEIGHT**2 * precision)
