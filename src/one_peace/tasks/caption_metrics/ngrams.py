"""Counts of runs of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Ngram = tuple[str, ...]


def ngrams(words: Sequence[str], n: int) -> Counter[Ngram]:
    """How often each run of n words occurs."""
    return Counter(tuple(words[first : first + n]) for first in range(len(words) - n + 1))
