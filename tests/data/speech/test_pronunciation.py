"""The sounds of a text, as the language's rules have them."""

from __future__ import annotations

import pytest

from one_peace.data.speech.pronunciation import pronounce
from one_peace.errors import InputError
from one_peace.objectives.speech import LETTERS, SILENCE, UNKNOWN
from synthetic_speech import SYNTHESIZER


def test_sounds_come_in_order_with_their_words() -> None:
    said = pronounce(SYNTHESIZER, "Un perro.", "es", {"un": 0, "perro": 1})
    letters = "".join("_" if x == SILENCE else LETTERS[x - 1] for x in said.sounds)
    assert letters == "_um_pero_" and [x == SILENCE for x in said.sounds] == said.optional
    assert said.words == [UNKNOWN, 0, 0, UNKNOWN, 1, 1, 1, 1, UNKNOWN]


def test_fluent_speech_pauses_before_and_after_alone() -> None:
    fluent = pronounce(SYNTHESIZER, "Un perro.", "es", {"perro": 7}).fluent()
    assert [x == SILENCE for x in fluent.sounds] == [True, *[False] * 6, True]
    assert fluent.words == [UNKNOWN, UNKNOWN, UNKNOWN, 7, 7, 7, 7, UNKNOWN]
    assert fluent.fluent() == fluent


def test_what_cannot_be_said_is_told() -> None:
    with pytest.raises(InputError, match="no such voice"):
        pronounce(SYNTHESIZER, "Un perro.", "xx", {})
