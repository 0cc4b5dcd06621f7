"""How sequences are generated, and what comes out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True)
class Hypothesis:
    """A generated sequence: tokens after the start, with the end token if it has ended.

    `token_scores` are log-probabilities, one per token; `score` is their sum over the length to the power of the length
    penalty, the order of hypotheses.
    """

    tokens: list[int]
    score: float
    token_scores: list[float]


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of one decoding; the defaults are greedy.

    end, pad: ids of the end token and of padding, which is never generated.
    max_tokens: tokens before the end token. min_tokens: fewer do not count, but where prefixes are given: an input
        may end before the longest of them does (as published).
    beams: hypotheses kept, in sampling the number of samples per input.
    length_penalty: exponent of the length that the sum of log-probabilities is divided by; 0 leaves the sum. The length
        counts start and prefix, but not the end token.
    temperature: what logits are divided by.
    unknown_penalty: what the log-probability of the token `unknown` loses.
    no_repeat_ngram: no n tokens in a row occur twice; 0 allows all.
    force_end: at max_tokens the end token is appended and its log-probability counts (OFA). Without it max_tokens
        includes the end token, and sequences that have not ended by then count as they are (MiCo).
    exhaustive: a search goes on until no open beam could beat the worst hypothesis kept (MiCo). Without it, it stops
        with the first `beams` finished ones (OFA).
    """

    end: int
    pad: int
    max_tokens: int
    min_tokens: int = 1
    beams: int = 1
    length_penalty: float = 1.0
    temperature: float = 1.0
    unknown: int | None = None
    unknown_penalty: float = 0.0
    no_repeat_ngram: int = 0
    force_end: bool = True
    exhaustive: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "min_tokens", "beams", "no_repeat_ngram"):
            if not isinstance(value := getattr(self, name), Integral):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, got {self.beams}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} must lie between 0 and max_tokens {self.max_tokens}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram must not be negative, got {self.no_repeat_ngram}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    def within(self, room: int) -> GenerationSettings:
        """The same with at most `room` tokens: those that a model has positions left for."""
        return dataclasses.replace(self, max_tokens=min(self.max_tokens, room))
