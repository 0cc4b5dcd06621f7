"""Pairs of a medium and a caption as what is looked up among each other: every medium and every text once, and which
go together."""

from __future__ import annotations

import hashlib
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from one_peace.data.manifest import normalise_caption

Medium = TypeVar("Medium")


class DistinctPairs(Generic[Medium]):
    """The distinct `media` and `texts` of pairs, in the order in which they came.

    Captions that are equal but for case, punctuation and a leading article are one text, spelled as the first of them.
    A text is right for a medium if any pair joins them.
    """

    def __init__(self) -> None:
        self.media: list[Medium] = []
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}  # identity of a medium -> its number
        self._spellings: dict[str, int] = {}  # normalised caption -> number of its text
        self._joined: list[tuple[int, int]] = []

    def add(self, identity: str, medium: Medium, caption: str) -> None:
        """One pair. Of those with the same `identity` the first one's medium is kept."""
        text = normalise_caption(caption)
        if identity not in self._numbers:
            self._numbers[identity] = len(self.media)
            self.media.append(medium)
        if text not in self._spellings:
            self._spellings[text] = len(self.texts)
            self.texts.append(caption)
        self._joined.append((self._numbers[identity], self._spellings[text]))

    def relevant(self) -> Tensor:
        """(media, texts) bool: which text is right for which medium."""
        relevant = torch.zeros(len(self.media), len(self.texts), dtype=torch.bool)
        relevant[tuple(torch.tensor(self._joined, dtype=torch.int64).view(-1, 2).t())] = True
        return relevant


def identity_of(medium: Any) -> str:
    """The same for media that are the same: a path, contents as bytes, or several of these by name."""
    if isinstance(medium, dict):
        return "\n".join(identity_of(one) for one in medium.values())
    return hashlib.sha256(medium).hexdigest() if isinstance(medium, bytes) else str(medium)
