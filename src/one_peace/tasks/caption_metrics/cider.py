"""CIDEr-D (arXiv 1411.5726): how much of what references agree on, and other pictures' do not, a caption says.

The COCO caption evaluation's "CIDEr" is this formula over words of `ptb.tokenize`; as a reward for training it takes
words as they are, with an end marker, and document frequencies that were counted once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from one_peace.tasks.caption_metrics.ngrams import Ngram, ngrams
from one_peace.tasks.caption_metrics.ptb import without_punctuation

ORDER = 4
_SIGMA = 6.0  # of the penalty for another length
END_MARK = "<eos>"


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many pictures' references a run of words occurs, and how many pictures there are."""

    counts: Mapping[Ngram, float]
    pictures: float

    @classmethod
    def of(cls, references: Sequence[Iterable[Sequence[str]]]) -> DocumentFrequency:
        """Counted over the references of each picture."""
        counts: Counter[Ngram] = Counter()
        for captions in references:
            counts.update({run for words in captions for n in range(1, ORDER + 1) for run in ngrams(words, n)})
        return cls(counts, len(references))

    def rarity(self, run: Ngram) -> float:
        """log(pictures / those that have it); nothing is rarer than once."""
        return math.log(self.pictures) - math.log(max(1.0, self.counts.get(run, 0.0)))


def cider_d(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    frequency: DocumentFrequency | None = None,
) -> list[float]:
    """CIDEr-D of each caption, 0 to 10; by default with the document frequencies of these references.

    Args:
        hypotheses: words of each caption.
        references: words of the references of each caption, at least one.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} captions do not go with {len(references)} lists of references")
    frequency = DocumentFrequency.of(references) if frequency is None else frequency
    known: dict[Ngram, _Weighed] = {}  # several captions are often compared with the same references

    def weighed(words: Sequence[str]) -> _Weighed:
        key = tuple(words)
        if key not in known:
            known[key] = _Weighed(key, frequency)
        return known[key]

    scores = []
    for words, others in zip(hypotheses, references, strict=True):
        if not others:
            raise ValueError(f"the caption {' '.join(words)!r:.60} has no reference")
        mine = weighed(words)
        scores.append(10 * math.fsum(mine.likeness(weighed(other)) for other in others) / len(others))
    return scores


class _Weighed:
    """Runs of 1 to 4 words, weighed by how often they occur here and how rare they are."""

    def __init__(self, words: Ngram, frequency: DocumentFrequency) -> None:
        self.pairs = max(0, len(words) - 1)  # published: the length is the number of pairs
        self.weights = [
            {run: count * frequency.rarity(run) for run, count in ngrams(words, n).items()} for n in range(1, ORDER + 1)
        ]
        self.norms = [math.sqrt(math.fsum(w * w for w in weights.values())) for weights in self.weights]

    def likeness(self, other: _Weighed) -> float:
        """Mean over the orders of the cosine, in which no run counts for more than the other has of it."""
        total = 0.0
        for mine, theirs, norm, norm_of_other in zip(self.weights, other.weights, self.norms, other.norms, strict=True):
            shared = math.fsum(min(w, theirs[run]) * theirs[run] for run, w in mine.items() if run in theirs)
            total += shared / (norm * norm_of_other) if norm and norm_of_other else shared
        return total / ORDER * math.exp(-((self.pairs - other.pairs) ** 2) / (2 * _SIGMA**2))


def reward_words(caption: str) -> list[str]:
    """A caption as it is rewarded in self-critical training: without ASCII punctuation, with an end marker."""
    return [*without_punctuation(caption).split(), END_MARK]
