"""Captions read aloud, with a label of what is heard when: by synthetic voices, and in the voices of recordings."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import torch

from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.speech.labelled_speech import LabelledSpeech, Take
from one_peace.data.speech.pronunciation import pronounce
from one_peace.data.speech.speech_synthesis import (
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
from one_peace.data.speech.spliced_speech import Splicer
from one_peace.errors import InputError
from one_peace.media.sounds import SAMPLE_RATE
from one_peace.objectives.speech import UNKNOWN, sound_spans

SHORTEST, LONGEST = 0.2, 2.0  # seconds of speech
ATTEMPTS = 1000  # to find a caption of such a length


class SpokenCaptions:
    """Captions of training items in the languages of `RENDERS`, read aloud in voices, speeds and rooms drawn anew.

    A language is drawn as often as the sample library has clips of it per caption. No caption is one of `withheld`
    (normalised captions). `words` are all words of the captions with their indices.
    """

    def __init__(self, items: Iterable[Item], synthesizer: Synthesizer, withheld: Collection[str] = ()) -> None:
        found: dict[str, dict[str, str]] = {language: {} for language in RENDERS}
        for item in items:
            for language in RENDERS:
                for text in item.texts.get(language, ())[:1]:
                    if normalise_caption(text) not in withheld:
                        found[language][text] = min(item.english, found[language].get(text, item.english))
        # Of every language the captions, and what each says in English.
        self.texts = {language: sorted(texts.items()) for language, texts in found.items()}
        self.languages = [language for language, texts in self.texts.items() if texts]
        if not self.languages:
            raise ValueError(f"no caption to speak: the items have none in {', '.join(RENDERS)}")
        words = {
            word.casefold() for texts in self.texts.values() for text, _ in texts for word in re.findall(r"\w+", text)
        }
        self.words = {word: index for index, word in enumerate(sorted(words))}
        self.weights = torch.tensor([float(RENDERS[language]) for language in self.languages])
        self.synthesizer = synthesizer

    def takes(self, count: int, seed: int) -> Iterator[Take]:
        """`count` clips; the same seed gives the same, but for what eSpeak NG itself leaves to chance.

        Raises:
            ValueError: no caption lasts between `SHORTEST` and `LONGEST` seconds.
        """
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            spoken, caption = self._spoken(generator)
            seconds = len(spoken.waveform) / SAMPLE_RATE
            words = [(second, self.words.get(word.casefold(), UNKNOWN)) for second, word in spoken.words]
            waveform = torch.from_numpy(spoken.waveform)
            yield LabelledSpeech(waveform, sound_spans(spoken.sounds, seconds), words, caption).take(generator)

    def spliced_takes(self, speech: Sequence[LabelledSpeech], attempts: int, seed: int) -> Iterator[Take]:
        """Clips put together from recordings: any caption, of any language, in the voice of any recording.

        An attempt gives nothing if nobody ever said one of the caption's sounds, or if the clip is too short or long.
        """
        generator, splicer = torch.Generator().manual_seed(seed), Splicer(speech)
        for _ in range(attempts if speech else 0):
            language, text, caption = self._draw(generator)
            speaker = speech[int(torch.randint(len(speech), (), generator=generator))].speaker
            try:
                said = pronounce(self.synthesizer, text, language, self.words)
            except InputError:  # a caption of signs alone
                continue
            spliced = splicer.say(said, caption, speaker, generator)
            if spliced is not None and SHORTEST <= len(spliced.waveform) / SAMPLE_RATE <= LONGEST:
                yield spliced.take(generator)

    def _draw(self, generator: torch.Generator) -> tuple[str, str, str]:
        """A language, a caption in it, and what that says in English."""
        language = self.languages[int(torch.multinomial(self.weights, 1, generator=generator))]
        texts = self.texts[language]
        return language, *texts[int(torch.randint(len(texts), (), generator=generator))]

    def _spoken(self, generator: torch.Generator) -> tuple[Utterance, str]:
        """Any caption by any synthetic voice, and what it says in English."""
        for _ in range(ATTEMPTS):
            language, text, caption = self._draw(generator)
            accent, variant, rate, pitch = torch.rand(4, generator=generator).tolist()
            accents = ACCENTS.get(language, (language,))
            voice = accents[int(accent * len(accents))] + VARIANTS[int(variant * len(VARIANTS))]
            speed, height = SLOWEST + rate * (FASTEST - SLOWEST), LOWEST + pitch * (HIGHEST - LOWEST)
            try:
                spoken = self.synthesizer.say(text, voice, words_per_minute=round(speed), pitch=round(height))
            except InputError:  # a caption of signs alone
                continue
            if SHORTEST <= len(spoken.waveform) / SAMPLE_RATE <= LONGEST:
                return spoken, caption
        raise ValueError(f"none of {ATTEMPTS} captions drawn lasts {SHORTEST:g} to {LONGEST:g} seconds when spoken")
