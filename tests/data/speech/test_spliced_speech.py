"""What speakers never said, put together from what they said."""

from __future__ import annotations

import torch

from one_peace.data.speech.labelled_speech import LabelledSpeech
from one_peace.data.speech.pronunciation import Pronunciation
from one_peace.data.speech.spliced_speech import OVERLAP, Splicer
from one_peace.objectives.speech import SILENCE, UNKNOWN

RATE, LENGTH = 16_000, 1600  # samples of every sound in the recordings here


def said(speaker: str, *sounds: int) -> LabelledSpeech:
    """A recording in which every sound is as loud as its class."""
    waveform = torch.cat([torch.full((LENGTH,), float(sound)) for sound in sounds]).half()
    starts = [n * LENGTH / RATE for n in range(len(sounds))]
    return LabelledSpeech(waveform, list(zip(starts, sounds, strict=True)), [(0.0, UNKNOWN)], "Something.", speaker)


def text(*sounds: int) -> Pronunciation:
    """All of it of word 7."""
    return Pronunciation(list(sounds), [sound == SILENCE for sound in sounds], [7] * len(sounds))


def heard(spliced: LabelledSpeech) -> list[int]:
    """The loudness in the middle of every sound that is labelled."""
    starts = [second for second, _ in spliced.sounds]
    ends = [*starts[1:], len(spliced.waveform) / RATE]
    return [round(spliced.waveform[int((a + b) / 2 * RATE)].item()) for a, b in zip(starts, ends, strict=True)]


def test_the_sounds_come_from_what_the_speaker_said() -> None:
    splicer = Splicer([said("ann", 1, 2, 3), said("ann", 4, 1, 5), said("bob", 9, 9)])
    spliced = splicer.say(text(5, 1, 2, 4), "A dog.", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None and (spliced.caption, spliced.speaker) == ("A dog.", "ann")
    assert [sound for _, sound in spliced.sounds] == heard(spliced) == [5, 1, 2, 4]
    assert [word for _, word in spliced.words] == [7] * 4
    assert len(spliced.waveform) == 4 * LENGTH - 2 * OVERLAP  # 1 and 2 were said in a row


def test_long_runs_are_preferred() -> None:
    """Of 1 2 3 in a row nothing is cut, though each of them was said elsewhere too."""
    splicer = Splicer([said("ann", 1), said("ann", 2), said("ann", 3), said("ann", 8, 1, 2, 3, 8)])
    spliced = splicer.say(text(1, 2, 3), "", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None and len(spliced.waveform) == 3 * LENGTH


def test_pauses_between_words_are_left_out() -> None:
    splicer = Splicer([said("ann", SILENCE, 1, SILENCE, 2, SILENCE)])
    spliced = splicer.say(text(SILENCE, 2, SILENCE, 1, SILENCE), "", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None and heard(spliced) == [SILENCE, 2, 1, SILENCE]


def test_only_sounds_that_a_speaker_never_said_are_somebody_elses() -> None:
    splicer = Splicer([said("ann", 1, 2), said("bob", 2, 3, 1)])
    spliced = splicer.say(text(2, 3, 1), "", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None and heard(spliced) == [2, 3, 1]
    assert len(spliced.waveform) == 3 * LENGTH - 2 * OVERLAP  # not the run of the other one
    assert splicer.say(text(1, 4), "", "ann", torch.Generator().manual_seed(0)) is None  # nobody said 4


def test_pieces_fade_into_one_another() -> None:
    splicer = Splicer([said("ann", 10), said("ann", 20)])
    spliced = splicer.say(text(10, 20), "", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None
    steps = spliced.waveform.diff()
    assert steps.max() < 0.2 and steps.min() >= 0.0 and spliced.waveform[0] == 10 and spliced.waveform[-1] == 20


def test_sounds_shorter_than_the_fade_are_spliced_too() -> None:
    short = [LabelledSpeech(torch.ones(20).half() * n, [(0.0, n)], [], "", "ann") for n in (1, 2)]
    spliced = Splicer(short).say(text(1, 2, 1), "", "ann", torch.Generator().manual_seed(0))
    assert spliced is not None and len(spliced.waveform) == 20 and len(spliced.sounds) == 3
