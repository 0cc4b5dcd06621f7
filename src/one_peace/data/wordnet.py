"""WordNet (Princeton, 3.0): what English calls things, and what it says of them, as texts to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from one_peace.data.sample_library.packages import Package
from one_peace.errors import InputError

PACKAGE = Package("debian", "wordnet-base", "WordNet-3.0")
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")

_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # of adjectives: where they stand
_VOWELS = frozenset("aeiou")


@dataclass(frozen=True)
class Meaning:
    """One sense: the words that have it, its definition, and whether it is a thing."""

    words: tuple[str, ...]
    definition: str
    is_noun: bool


def read_wordnet(files: Path) -> list[Meaning]:
    """All meanings in the database files `data.noun`, ... anywhere under a folder, in their order.

    Raises:
        InputError: a file is missing, or is no such file.
    """
    return [meaning for part in PARTS_OF_SPEECH for meaning in _read(files, part)]


def texts_of(meanings: list[Meaning]) -> list[str]:
    """Words, things also as captions are written (`An owl.`), and definitions; every text once, in order."""
    texts: dict[str, None] = {}
    for meaning in meanings:
        for word in meaning.words:
            texts[word] = None
            if meaning.is_noun:
                texts[f"{'An' if word[0].lower() in _VOWELS else 'A'} {word}."] = None
        texts[meaning.definition] = None
    return list(texts)


def _read(files: Path, part: str) -> Iterator[Meaning]:
    paths = sorted(files.rglob(f"data.{part}"))
    if not paths:
        raise InputError(str(files), f"no WordNet: data.{part} is missing")
    with paths[0].open(encoding="latin-1") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith("  "):  # the licence
                continue
            try:
                synset, gloss = line.split(" | ", 1)
                fields = synset.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]  # between them stand the numbers of the sense
                words = [_MARKER.sub("", word).replace("_", " ") for word in words]
                definition = gloss.split(";")[0].strip()
                yield Meaning(tuple(word for word in words if word), definition, part == "noun")
            except (ValueError, IndexError) as error:
                raise InputError(f"{paths[0]}, line {number}", f"not of a WordNet database ({error})") from error
