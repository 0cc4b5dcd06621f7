"""BLEU-1 to BLEU-4 (Papineni et al. 2002) as the COCO caption evaluation computes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from one_peace.tasks.caption_metrics.ngrams import Ngram, ngrams

ORDER = 4
# Published: nothing is divided by zero, and without any match the product is tiny and not zero.
_NO_MATCH, _NO_WORDS = 1e-15, 1e-9


def bleu(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[list[float], list[list[float]]]:
    """BLEU-1..4 of all captions together, and of each one: (4 values, 4 lists of a value per caption).

    Args:
        hypotheses: words of each caption.
        references: words of the references of each caption, at least one. Of several lengths the closest counts, of two
            equally close the shorter.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} captions do not go with {len(references)} lists of references")
    right, made = [0] * ORDER, [0] * ORDER
    length = reference_length = 0
    single: list[list[float]] = [[] for _ in range(ORDER)]
    for words, others in zip(hypotheses, references, strict=True):
        closest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
        matches = [_matches(words, others, n) for n in range(1, ORDER + 1)]
        counts = [max(0, len(words) - n + 1) for n in range(1, ORDER + 1)]
        for values, value in zip(single, _scores(matches, counts, len(words), closest), strict=True):
            values.append(value)
        right = [total + count for total, count in zip(right, matches, strict=True)]
        made = [total + count for total, count in zip(made, counts, strict=True)]
        length, reference_length = length + len(words), reference_length + closest
    return _scores(right, made, length, reference_length), single


def _matches(words: Sequence[str], references: Sequence[Sequence[str]], n: int) -> int:
    """Runs of n words that a reference has, too; each as often as the reference that has it most."""
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= ngrams(reference, n)
    return (ngrams(words, n) & most).total()


def _scores(right: Sequence[int], made: Sequence[int], length: int, reference_length: int) -> list[float]:
    product, scores = 1.0, []
    for n, (matches, count) in enumerate(zip(right, made, strict=True), start=1):
        product *= (matches + _NO_MATCH) / (count + _NO_WORDS)
        scores.append(product ** (1 / n))
    ratio = (length + _NO_MATCH) / (reference_length + _NO_WORDS)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [score * brevity for score in scores]
