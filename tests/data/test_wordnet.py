"""WordNet's database files become words, captions of things, and definitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_peace.data.wordnet import PARTS_OF_SPEECH, Meaning, read_wordnet, texts_of
from one_peace.errors import InputError

LICENCE = "  1 This software and database is being provided to you, the LICENSEE  \n"
OWL = '01621127 05 n 03 owl 0 bird_of_Minerva 0 hooter 0 001 @ 01604330 n 0000 | nocturnal bird; "an owl hoots"\n'
LIVING = "00097885 00 a 01 alive(p) 0 001 ! 00095280 a 0101 | possessing life  \n"


def database(folder: Path, **lines: str) -> Path:
    for part in PARTS_OF_SPEECH:
        path = folder / "usr" / "share" / "wordnet" / f"data.{part}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LICENCE + lines.get(part, ""), encoding="latin-1")
    return folder


def test_words_and_definitions_of_all_parts_of_speech(tmp_path: Path) -> None:
    assert read_wordnet(database(tmp_path, noun=OWL, adj=LIVING)) == [
        Meaning(("owl", "bird of Minerva", "hooter"), "nocturnal bird", is_noun=True),
        Meaning(("alive",), "possessing life", is_noun=False),  # without where it may stand
    ]


def test_things_are_also_written_as_captions_and_no_text_comes_twice() -> None:
    meanings = [
        Meaning(("owl", "bird"), "animal", True),
        Meaning(("owl",), "animal", True),
        Meaning(("to",), "x", False),
    ]
    assert texts_of(meanings) == ["owl", "An owl.", "bird", "A bird.", "animal", "to", "x"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (database(tmp_path) / "usr/share/wordnet/data.verb").unlink()
    with pytest.raises(InputError, match=r"no WordNet: data\.verb is missing"):
        read_wordnet(tmp_path)


@pytest.mark.parametrize("line", ["owl\n", "1 05 n zz owl 0 | bird\n", "1 05 | bird\n"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"data\.noun, line 3: not of a WordNet database"):
        read_wordnet(database(tmp_path, noun=OWL + line))
