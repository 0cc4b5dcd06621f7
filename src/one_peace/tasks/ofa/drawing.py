"""A caption drawn as image codes (text-to-image on COCO)."""

from __future__ import annotations

from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.task import SequenceTask, cleaned
from one_peace.tasks.task import BadRow, Row, has


class Drawing(SequenceTask):
    """Rows have `caption` and `codes`: numbers of codes between blanks, row by row of the picture, `count` of them."""

    columns = ("caption",)
    target_columns = ("codes",)

    def __init__(self, vocabulary: OfaVocabulary, count: int = 1024) -> None:
        super().__init__(vocabulary)
        self.count = count

    def example(self, row: Row, key: str) -> SequenceExample:
        caption = cleaned(row, "caption", key, prompts.DRAW_WORDS)
        codes = parse_codes(row["codes"], key, self.count, self.vocabulary.codes) if has(row, "codes") else None
        ids = None if codes is None else [self.vocabulary.first_code + code for code in codes]
        parts = with_target(self.vocabulary.encode(prompts.DRAW.format(caption)), ids)
        return SequenceExample(key, codes=True, facts={"caption": caption}, **parts)


def parse_codes(value: object, key: str, count: int, known: int) -> list[int]:
    """Numbers of image codes. `BadRow` unless there are `count` of them, all below `known`."""
    words = str(value).split()
    if len(words) != count or not all(word.isdecimal() and int(word) < known for word in words):
        raise BadRow(key, f"column 'codes' must hold {count} numbers from 0 to {known - 1}, got {str(value)!r:.60}")
    return [int(word) for word in words]
