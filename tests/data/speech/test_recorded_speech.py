"""Recordings of known captions: a recogniser of sounds tells when their words come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.data.speech.labelled_speech import LabelledSpeech
from one_peace.data.speech.pronunciation import Pronunciation
from one_peace.data.speech.recorded_speech import LONGEST, Recording, align_recordings, read_recordings
from one_peace.objectives.speech import CLASSES, COLUMN, SILENCE, UNKNOWN, label_columns, sound_spans
from synthetic_speech import PITCH, RATE, SPEED, SYNTHESIZER, spoken

WORDS = {"un": 0, "perro": 1}


def heard_by(labels: Tensor) -> Tensor:
    """The log-probabilities of somebody who is nearly sure of these classes."""
    return (8.0 * F.one_hot(labels, CLASSES)).log_softmax(1)


def test_sounds_and_words_are_found_where_they_are(tmp_path: Path) -> None:
    (recording,) = read_recordings([spoken(tmp_path)], SYNTHESIZER, WORDS)
    assert (recording.caption, recording.speaker) == ("dog", "es")

    said = SYNTHESIZER.say("Un perro.", "es", words_per_minute=SPEED, pitch=PITCH)
    columns = int(len(said.waveform) / RATE / COLUMN)
    truth = label_columns(sound_spans(said.sounds, len(said.waveform) / RATE), columns)
    sure = heard_by(truth.clamp(min=0))
    found = recording.align(torch.cat([sure, sure]))  # of more columns than the recording has the first ones count
    assert found is not None and found[0] > -0.5
    same = label_columns(found[1].sounds, columns) == truth
    assert same.float().mean() > 0.9
    begins = dict((word, second) for second, word in reversed(found[1].words))
    assert abs(begins[1] - said.words[1][0]) < 0.1 and begins[0] < 0.06


def test_what_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    good = spoken(tmp_path)
    soundfile.write(tmp_path / "long.wav", np.zeros(int((LONGEST + 1) * RATE), dtype=np.float32), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    useless = [
        dataclasses.replace(good, path=tmp_path / "long.wav"),
        dataclasses.replace(good, path=tmp_path / "broken.wav"),
        dataclasses.replace(good, track="effect"),
        dataclasses.replace(good, language="xx", texts={"xx": ["Un perro."]}),  # nobody can say it
        dataclasses.replace(good, language=None),
        dataclasses.replace(good, language="en"),  # of a language without a caption
    ]
    assert len(read_recordings([*useless, good], SYNTHESIZER, WORDS)) == 1
    assert read_recordings([good], SYNTHESIZER, WORDS, {"un perro"}) == []


def test_recordings_of_something_else_are_left_out(tmp_path: Path) -> None:
    recordings = read_recordings([spoken(tmp_path)] * 10, SYNTHESIZER, WORDS)
    short = dataclasses.replace(recordings[0], waveform=recordings[0].waveform[:1600])
    columns = int(len(recordings[0].waveform) / RATE / COLUMN)

    def recognise(waveforms: Sequence[Tensor]) -> Iterable[Tensor]:
        """The third one says something else."""
        for number, waveform in enumerate(waveforms):
            assert waveform.dtype == torch.float16
            sounds = recordings[0].said.sounds
            sequence = [s for s in sounds for _ in range(columns // len(sounds) + 1)]
            heard = torch.tensor(sequence[:columns])
            yield heard_by(heard.flip(0) if number == 2 else heard)

    aligned = align_recordings([*recordings, short], recognise)
    assert len(aligned) == 9
    assert all(one.sounds == aligned[0].sounds for one in aligned)


def test_takes_carry_their_labels() -> None:
    """Where a tone is labelled, the take is loud, whatever happened to its tempo and its beginning."""
    tone = torch.sin(torch.arange(4000) * 0.4)
    speech = LabelledSpeech(
        torch.cat([torch.zeros(4000), tone, torch.zeros(4000)]).half(),
        [(0.0, SILENCE), (0.25, 5), (0.5, SILENCE)],
        [(0.0, UNKNOWN), (0.25, 3), (0.5, UNKNOWN)],
        "A tone.",
    )
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(20):
        take = speech.take(generator)
        lengths.add(len(take.waveform))
        assert take.caption == "A tone."
        assert len(take.waveform) >= RATE and len(take.sounds) == len(take.words) == len(take.waveform) // 320
        assert torch.equal(take.sounds == 5, take.words == 3) and set(take.sounds.tolist()) == {SILENCE, 5}
        power = take.waveform[: len(take.sounds) * 320].view(-1, 320).square().mean(dim=1)
        assert power[take.sounds == 5].mean() > 3 * power[take.sounds == SILENCE].mean()
    assert len(lengths) > 5


def test_a_recording_too_short_for_its_sounds_is_not_aligned() -> None:
    recording = Recording(torch.zeros(640).half(), Pronunciation([1, 2, 3], [False] * 3, [0, 0, 0]), "A dog.", "me")
    assert recording.align(torch.zeros(10, CLASSES)) is None
