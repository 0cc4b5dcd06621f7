"""Captions spoken anew for every batch, with a label of what is heard when: no two clips are alike."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.data.augmentation import LONGEST_SILENCE, TEMPO, change_recording, stretch
from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.speech_synthesis import (
    ACCENTS,
    FASTEST,
    HIGHEST,
    LOWEST,
    RENDERS,
    SLOWEST,
    VARIANTS,
    Synthesizer,
    Utterance,
)
from one_peace.errors import InputError
from one_peace.modalities.sounds import SAMPLE_RATE, prepare_waveform
from one_peace.objectives.speech import COLUMN, UNKNOWN, label_columns, label_sounds

SHORTEST, LONGEST = 0.2, 2.0  # seconds of speech
ATTEMPTS = 1000  # to find a caption of such a length

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledSpeech:
    """`waveform` (samples,) as the audio modality takes it; of every 20 ms of it the class in `sounds` (int64) and the
    index in `words` (int64, `UNKNOWN` where there is none)."""

    waveform: Tensor
    sounds: Tensor
    words: Tensor


class SpokenCaptions:
    """Captions of training items in the languages of `RENDERS`, read aloud in voices, speeds and rooms drawn anew.

    A language is drawn as often as the sample library has clips of it per caption. No caption is one of `withheld`
    (normalised captions). `words` are all words of the captions with their indices.
    """

    def __init__(self, items: Iterable[Item], synthesizer: Synthesizer, withheld: Collection[str] = ()) -> None:
        found: dict[str, set[str]] = {language: set() for language in RENDERS}
        for item in items:
            for language in RENDERS:
                found[language] |= set(item.texts.get(language, ())[:1])
        self.texts = {
            language: sorted(text for text in texts if normalise_caption(text) not in withheld)
            for language, texts in found.items()
        }
        self.languages = [language for language, texts in self.texts.items() if texts]
        if not self.languages:
            raise ValueError(f"no caption to speak: the items have none in {', '.join(RENDERS)}")
        words = {
            word.casefold() for texts in self.texts.values() for text in texts for word in re.findall(r"\w+", text)
        }
        self.words = {word: index for index, word in enumerate(sorted(words))}
        self.weights = torch.tensor([float(RENDERS[language]) for language in self.languages])
        self.synthesizer = synthesizer

    def batch(self, size: int, seed: int, step: int) -> list[LabelledSpeech]:
        """`size` clips; the same seed and step give the same, but for what eSpeak NG itself leaves to chance.

        Raises:
            ValueError: no caption lasts between `SHORTEST` and `LONGEST` seconds.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return [self._clip(generator) for _ in range(size)]

    def _clip(self, generator: torch.Generator) -> LabelledSpeech:
        spoken = self._spoken(generator)
        tempo, silence = torch.rand(2, generator=generator).tolist()
        factor, before = 1 + TEMPO * (2 * tempo - 1), int(silence * LONGEST_SILENCE)
        quiet = F.pad(stretch(torch.from_numpy(spoken.waveform), factor), (before, 0))
        waveform = prepare_waveform(change_recording(quiet, generator, 1.0), max_seconds=None)
        seconds = len(quiet) / SAMPLE_RATE
        repeats = math.ceil(len(waveform) / len(quiet))  # a short sound fills a second
        columns = int(len(waveform) / SAMPLE_RATE / COLUMN)

        def times(starts: list[tuple[float, T]], silence: T) -> list[tuple[float, T]]:
            """When something begins in the clip: of the waveform first the silence, then what is said, each time."""
            once = [(0.0, silence), *((second / factor + before / SAMPLE_RATE, what) for second, what in starts)]
            return [(second + turn * seconds, what) for turn in range(repeats) for second, what in once]

        words = [(second, self.words.get(word.casefold(), UNKNOWN)) for second, word in spoken.words]
        return LabelledSpeech(
            waveform,
            label_sounds(times(spoken.sounds, ""), repeats * seconds, columns),
            label_columns(times(words, UNKNOWN), columns),
        )

    def _spoken(self, generator: torch.Generator) -> Utterance:
        """Any caption by any voice."""
        for _ in range(ATTEMPTS):
            language = self.languages[int(torch.multinomial(self.weights, 1, generator=generator))]
            pick, accent, variant, rate, pitch = torch.rand(5, generator=generator).tolist()
            texts, accents = self.texts[language], ACCENTS.get(language, (language,))
            voice = accents[int(accent * len(accents))] + VARIANTS[int(variant * len(VARIANTS))]
            speed, height = SLOWEST + rate * (FASTEST - SLOWEST), LOWEST + pitch * (HIGHEST - LOWEST)
            try:
                spoken = self.synthesizer.say(
                    texts[int(pick * len(texts))], voice, words_per_minute=round(speed), pitch=round(height)
                )
            except InputError:  # a caption of signs alone
                continue
            if SHORTEST <= len(spoken.waveform) / SAMPLE_RATE <= LONGEST:
                return spoken
        raise ValueError(f"none of {ATTEMPTS} captions drawn lasts {SHORTEST:g} to {LONGEST:g} seconds when spoken")
