"""Speech of which it is known what is heard when, and further takes of it: the labels follow every change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.media.augmentation import LONGEST_SILENCE, TEMPO, change_recording, stretch
from one_peace.media.sounds import SAMPLE_RATE, prepare_waveform
from one_peace.objectives.speech import COLUMN, SILENCE, UNKNOWN, label_columns


@dataclass(frozen=True)
class Take:
    """`waveform` (samples,) as the audio modality takes it; of every 20 ms of it the class in `sounds` (int64) and the
    index in `words` (int64, `UNKNOWN` where there is none); `caption` says in English what is said."""

    waveform: Tensor
    sounds: Tensor
    words: Tensor
    caption: str


@dataclass(frozen=True)
class LabelledSpeech:
    """`waveform` (samples,) at 16 kHz; `sounds` and `words` are (second of its beginning, class or index), in order.

    `caption` says in English what is said, `speaker` whose voice it is, where that is a person's.
    """

    waveform: Tensor
    sounds: list[tuple[float, int]]
    words: list[tuple[float, int]]
    caption: str
    speaker: str = ""

    def take(self, generator: torch.Generator) -> Take:
        """The same at another tempo and pitch, by another microphone, in another room (`change_recording`)."""
        tempo, silence, strength = torch.rand(3, generator=generator).tolist()
        factor, before = 1 + TEMPO * (2 * tempo - 1), int(silence * LONGEST_SILENCE)
        quiet = F.pad(stretch(self.waveform.float(), factor), (before, 0))
        waveform = prepare_waveform(change_recording(quiet, generator, 0.3 + 0.7 * strength), max_seconds=None)
        seconds = len(quiet) / SAMPLE_RATE
        repeats = math.ceil(len(waveform) / len(quiet))  # a short sound fills a second
        columns = int(len(waveform) / SAMPLE_RATE / COLUMN)

        def labels(spans: list[tuple[float, int]], before_it: int) -> Tensor:
            """Of the waveform, where all of it is heard `repeats` times."""
            once = [(0.0, before_it), *((second / factor + before / SAMPLE_RATE, label) for second, label in spans)]
            turns = [(second + turn * seconds, label) for turn in range(repeats) for second, label in once]
            return label_columns(turns, columns)

        return Take(waveform, labels(self.sounds, SILENCE), labels(self.words, UNKNOWN), self.caption)
