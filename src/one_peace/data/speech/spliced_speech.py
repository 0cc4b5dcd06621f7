"""Speech put together from recordings: what speakers said, cut at its sounds, says captions that they never read.

Where every language has a speaker of its own, a model takes the voice for the language and hears none of another
language's words in it. Spliced speech has a person's voice and the words of any language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from one_peace.data.speech.labelled_speech import LabelledSpeech
from one_peace.data.speech.pronunciation import Pronunciation
from one_peace.media.sounds import SAMPLE_RATE

LONGEST_RUN = 5  # sounds that are taken from one place
OVERLAP = 80  # samples over which a piece fades into the next one: 5 ms

Run = tuple[int, ...]  # classes of sounds in a row
Place = tuple[int, int]  # a recording and the first of its sounds


class Splicer:
    """Labelled recordings by speaker, and where in them which sounds are said in a row."""

    def __init__(self, speech: Sequence[LabelledSpeech]) -> None:
        self.speech = speech
        self.said_by: dict[str, dict[Run, list[Place]]] = {}
        self.said: dict[Run, list[Place]] = defaultdict(list)  # single sounds, by anybody
        for number, one in enumerate(speech):
            said_by = self.said_by.setdefault(one.speaker, defaultdict(list))
            classes = [sound for _, sound in one.sounds]
            for first, sound in enumerate(classes):
                self.said[(sound,)].append((number, first))
                for last in range(first + 1, min(first + LONGEST_RUN, len(classes)) + 1):
                    said_by[tuple(classes[first:last])].append((number, first))

    def say(self, text: Pronunciation, caption: str, speaker: str, generator: torch.Generator) -> LabelledSpeech | None:
        """A text without pauses in a speaker's voice, put together from the longest runs of sounds ever said in it.

        Sounds that the speaker never said are somebody else's. None if nobody ever said one of them.
        """
        fluent, said_by, waveform = text.fluent(), self.said_by[speaker], torch.zeros(0)
        heard: list[tuple[float, int]] = []
        first = 0
        while first < len(fluent.sounds):
            run = _longest(said_by, fluent.sounds, first)
            places = said_by[run] if run in said_by else self.said.get(run, [])
            if not places:
                return None
            number, start = places[int(torch.randint(len(places), (), generator=generator))]
            piece, offsets = self._piece(number, start, len(run))
            before = max(0, len(waveform) - OVERLAP)
            heard += [((before + offset) / SAMPLE_RATE, sound) for offset, sound in zip(offsets, run, strict=True)]
            waveform = _faded(waveform, piece)
            first += len(run)
        words = [(second, word) for (second, _), word in zip(heard, fluent.words, strict=True)]
        return LabelledSpeech(waveform, heard, words, caption, speaker)

    def _piece(self, number: int, start: int, count: int) -> tuple[Tensor, list[int]]:
        """So many sounds of a recording in a row, and where in the piece each begins, in samples."""
        one = self.speech[number]
        begins = [round(second * SAMPLE_RATE) for second, _ in one.sounds]
        bounds = [*begins, len(one.waveform)][start : start + count + 1]
        return one.waveform[bounds[0] : bounds[-1]].float(), [bound - bounds[0] for bound in bounds[:-1]]


def _longest(said: Mapping[Run, list[Place]], sounds: Sequence[int], first: int) -> Run:
    """The longest beginning of what is left to say that was said somewhere; if none was, its first sound."""
    runs = [tuple(sounds[first:last]) for last in range(min(first + LONGEST_RUN, len(sounds)), first, -1)]
    return next((run for run in runs if run in said), runs[-1])


def _faded(before: Tensor, after: Tensor) -> Tensor:
    """One waveform fading into the other, where they are long enough to overlap."""
    overlap = min(OVERLAP, len(before), len(after))
    fade = torch.linspace(0.0, 1.0, overlap + 2)[1:-1]
    middle = before[len(before) - overlap :] * (1 - fade) + after[:overlap] * fade
    return torch.cat([before[: len(before) - overlap], middle, after[overlap:]])
