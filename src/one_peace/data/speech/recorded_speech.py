"""Recordings of people who read captions: what is said is known, and a recogniser of sounds tells when."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.speech.labelled_speech import LabelledSpeech
from one_peace.data.speech.pronunciation import Pronunciation, pronounce
from one_peace.data.speech.speech_synthesis import Synthesizer
from one_peace.errors import InputError
from one_peace.media.sounds import SAMPLE_RATE, decode_sound
from one_peace.objectives.forced_alignment import forced_alignment
from one_peace.objectives.speech import COLUMN

LONGEST = 3.0  # seconds; longer recordings are left out
WORST = 0.1  # of the recordings is left out: those whose sounds fit least, as they say something else


@dataclass(frozen=True)
class Recording:
    """`waveform` (samples,) float16 at 16 kHz of what `speaker` says; `caption` says the same in English."""

    waveform: Tensor
    said: Pronunciation
    caption: str
    speaker: str

    def align(self, log_probabilities: Tensor) -> tuple[float, LabelledSpeech] | None:
        """Of every 20 ms the log-probability of every class (columns, CLASSES) -> the mean log-likelihood of the best
        alignment and the labels by it; None if the recording is too short for all of its sounds."""
        columns = int(len(self.waveform) / SAMPLE_RATE / COLUMN)
        try:
            states, likelihood = forced_alignment(log_probabilities[:columns], self.said.sounds, self.said.optional)
        except ValueError:
            return None
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), states.diff().nonzero().squeeze(1) + 1]).tolist()
        heard = [(start * COLUMN, int(states[start])) for start in starts]
        sounds = [(second, self.said.sounds[state]) for second, state in heard]
        words = [(second, self.said.words[state]) for second, state in heard]
        return likelihood / len(states), LabelledSpeech(self.waveform, sounds, words, self.caption, self.speaker)


def read_recordings(
    items: Iterable[Item], synthesizer: Synthesizer, words: Mapping[str, int], withheld: Collection[str] = ()
) -> list[Recording]:
    """The spoken items that eSpeak NG can say the caption of in its own language, and that are short and readable.

    `words` gives the indices of words; those not in it are `UNKNOWN`. No caption is one of `withheld` (normalised).
    """
    found = []
    for item in items:
        captions = item.texts.get(item.language or "", ())
        if item.track != "speech" or not captions or normalise_caption(captions[0]) in withheld:
            continue
        assert item.language is not None
        try:
            said = pronounce(synthesizer, captions[0], item.language, words)
            waveform = decode_sound(item.path, max_seconds=LONGEST)
        except InputError:
            continue
        speaker = item.speaker or item.language
        found.append(Recording(torch.from_numpy(waveform).half(), said, item.english, speaker))
    return found


def align_recordings(
    recordings: Sequence[Recording], recognise: Callable[[Sequence[Tensor]], Iterable[Tensor]]
) -> list[LabelledSpeech]:
    """The recordings with labels, but for the `WORST` ones; `recognise` gives the log-probabilities of waveforms."""
    heard = recognise([recording.waveform for recording in recordings])
    aligned = [r.align(log_probabilities) for r, log_probabilities in zip(recordings, heard, strict=True)]
    fitting = [found for found in aligned if found is not None]
    order = sorted(range(len(fitting)), key=lambda i: fitting[i][0])
    return [fitting[i][1] for i in sorted(order[int(WORST * len(order)) :])]
