"""What was left out of a run, by reason, and how much of the batches was padding."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

NAMED = 10  # unusable pairs that are named in the log; the others are counted

log = logging.getLogger("one_peace.data")

Collect = Callable[[Any], list[Any]]
"""What one process has -> what all of a run have, each of which calls it."""


def alone(own: Any) -> list[Any]:
    """`Collect` of a run with one process."""
    return [own]


@dataclass
class Dropped:
    """Pairs that could not be used and were replaced: how often for each reason, and the first few by name.

    A pair is counted each time it is met, so also once per epoch.
    """

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, str] = field(default_factory=dict)

    def add(self, failures: Sequence[tuple[str, str]]) -> None:
        """(reason, message) of some pairs; the first few different ones go to the log."""
        for reason, message in failures:
            self.counts[reason] += 1
            if len(self.named) < NAMED and message not in self.named:
                self.named[message] = reason
                last = "; further ones are only counted" if len(self.named) == NAMED else ""
                log.warning("left out: %s%s", message, last)

    @property
    def total(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        if not self.counts:
            return "no pair was left out"
        return f"{self.total} pairs were left out: {self.reasons}"

    @property
    def reasons(self) -> str:
        """How often each reason occurred, the most frequent first."""
        return ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common())


@dataclass
class Padding:
    """Tokens of texts and partners, and what they take where they are padded to the longest."""

    text_tokens: int = 0
    text_padded: int = 0
    partner_tokens: int = 0
    partner_padded: int = 0

    def add(self, lengths: Sequence[tuple[int, int]], at_once: int | None = None) -> None:
        """The lengths (text, partner) of one batch, of which so many pairs at once are padded to one length: all of
        them by default."""
        step = at_once or len(lengths)
        for first in range(0, len(lengths), step):
            texts, partners = zip(*lengths[first : first + step], strict=True)
            self.text_tokens += sum(texts)
            self.text_padded += max(texts) * len(texts)
            self.partner_tokens += sum(partners)
            self.partner_padded += max(partners) * len(partners)

    @classmethod
    def of_all(cls, parts: Sequence[Padding]) -> Padding:
        """That of several processes together."""
        return cls(*(sum(counts) for counts in zip(*map(astuple, parts), strict=True)))

    @property
    def text(self) -> float:
        """Share of padding in the batches of texts."""
        return 1 - self.text_tokens / self.text_padded if self.text_padded else 0.0

    @property
    def partner(self) -> float:
        """Share of padding in the partner's batches."""
        return 1 - self.partner_tokens / self.partner_padded if self.partner_padded else 0.0

    @property
    def total(self) -> float:
        """Share of padding in both together, as in the joint sequence."""
        padded = self.text_padded + self.partner_padded
        return 1 - (self.text_tokens + self.partner_tokens) / padded if padded else 0.0
