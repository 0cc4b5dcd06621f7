"""Image codes as what is written: what drawing and the infilling of pictures share."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Any

from one_peace.generation.constraints import Constraint, TokenRange
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.example import SequenceExample
from one_peace.tasks.ofa.task import PICTURES, PictureForm, SequenceTask
from one_peace.tasks.task import BadRow, Row, has


class CodeTask(SequenceTask, ABC):
    """Rows may have `codes`: numbers of codes between blanks, row by row of the picture, `count` of them."""

    target_columns = ("codes",)
    codes = True

    def __init__(self, vocabulary: OfaVocabulary, count: int, pictures: PictureForm = PICTURES) -> None:
        super().__init__(vocabulary, pictures)
        self.count = count

    def codes_of(self, row: Row, key: str) -> list[int] | None:
        """The row's codes, None where it has none. `BadRow` as of `parse_codes`."""
        return parse_codes(row["codes"], key, self.count, self.vocabulary.codes) if has(row, "codes") else None

    def ids(self, codes: Sequence[int] | None) -> list[int] | None:
        """Codes as tokens."""
        return None if codes is None else [self.vocabulary.first_code + code for code in codes]

    def search(self, longest: int) -> GenerationSettings:
        return GenerationSettings(EOS_ID, PAD_ID, max_tokens=self.count, min_tokens=self.count)

    def constraint(self, answers: Sequence[str]) -> Constraint:
        first = self.vocabulary.first_code
        return TokenRange(first, first + self.vocabulary.codes, specials_at_end=True)

    def value(self, tokens: Sequence[int]) -> list[int]:
        """Numbers of the codes."""
        return [token - self.vocabulary.first_code for token in tokens]

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        return {"codes": " ".join(map(str, value))}


def parse_codes(value: object, key: str, count: int, known: int) -> list[int]:
    """Numbers of image codes. `BadRow` unless there are `count` of them, all below `known`."""
    words = str(value).split()
    if len(words) != count or not all(word.isdecimal() and int(word) < known for word in words):
        raise BadRow(key, f"column 'codes' must hold {count} numbers from 0 to {known - 1}, got {str(value)!r:.60}")
    return [int(word) for word in words]
