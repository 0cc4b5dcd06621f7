"""Which sounds a text has, by eSpeak NG's rules of its language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from one_peace.data.speech.speech_synthesis import Synthesizer
from one_peace.objectives.speech import COLUMN, SILENCE, UNKNOWN, sound_classes

WORDS_PER_MINUTE, PITCH = 140, 50  # eSpeak NG's, when it tells which sounds a text has


@dataclass(frozen=True)
class Pronunciation:
    """The sounds of a text in their order: their classes, whether one may be missing (the pauses between words and
    around them), and the index of the word that each belongs to (`UNKNOWN` for pauses and words without an index)."""

    sounds: list[int]
    optional: list[bool]
    words: list[int]

    def fluent(self) -> Pronunciation:
        """The same without pauses but before the first word and after the last one."""
        last = len(self.sounds) - 1
        rows = enumerate(zip(self.sounds, self.optional, self.words, strict=True))
        sounds, optional, words = zip(*(row for n, row in rows if not row[1] or n in (0, last)), strict=True)
        return Pronunciation(list(sounds), list(optional), list(words))


def pronounce(synthesizer: Synthesizer, text: str, language: str, words: Mapping[str, int]) -> Pronunciation:
    """`words` gives the indices of words.

    Raises:
        InputError: eSpeak NG cannot say it: an unknown language, or a text of signs alone.
    """
    said = synthesizer.say(text, language, words_per_minute=WORDS_PER_MINUTE, pitch=PITCH)
    starts = [second for second, _ in said.words]
    sequence: list[tuple[int, bool, int]] = [(SILENCE, True, UNKNOWN)]

    def pause() -> None:
        if sequence[-1][0] != SILENCE:
            sequence.append((SILENCE, True, UNKNOWN))

    before = -1
    for second, name in said.sounds:
        word = sum(start <= second + COLUMN / 2 for start in starts) - 1
        if word != before:
            pause()
        before = word
        index = UNKNOWN if word < 0 else words.get(said.words[word][1].casefold(), UNKNOWN)
        for sound in sound_classes(name):
            if sound == SILENCE:
                pause()
            elif sound != UNKNOWN:
                sequence.append((sound, False, index))
    pause()
    classes, optional, indices = zip(*sequence, strict=True)
    return Pronunciation(list(classes), list(optional), list(indices))
