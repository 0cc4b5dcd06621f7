"""Synthetic speech with labels, by eSpeak NG itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from one_peace.data.speech import spoken_captions
from one_peace.data.speech.labelled_speech import LabelledSpeech
from one_peace.data.speech.speech_synthesis import (
    FASTEST,
    HIGHEST,
    LOWEST,
    SAMPLE_RATE,
    SLOWEST,
    Synthesizer,
    Utterance,
)
from one_peace.data.speech.spoken_captions import LONGEST, SpokenCaptions
from one_peace.errors import InputError
from one_peace.objectives.speech import LETTERS, SILENCE, UNKNOWN
from synthetic_speech import ESPEAK, SYNTHESIZER, thing


def test_it_tells_what_it_says_when() -> None:
    spoken = SYNTHESIZER.say("Un cuervo.", "es", words_per_minute=140, pitch=50)
    seconds = len(spoken.waveform) / SAMPLE_RATE
    assert spoken.waveform.dtype == np.float32 and 0.4 < seconds < 2.0
    letters = "".join(name for _, name in spoken.sounds)
    assert [c for c in letters if c in LETTERS] == list("unkweɾβo")
    starts = [start for start, _ in spoken.sounds]
    assert starts == sorted(starts) and starts[0] == 0.0 and starts[-1] <= seconds + 0.1


def test_a_change_of_language_is_no_sound() -> None:
    spoken = SYNTHESIZER.say("Буквата B.", "bg", words_per_minute=140, pitch=50)
    assert not any("(" in name for _, name in spoken.sounds)


def test_two_of_them_do_not_speak_for_one_another() -> None:
    other = Synthesizer(ESPEAK)
    said = [one.say("Un cuervo.", "es", words_per_minute=140, pitch=50) for one in (SYNTHESIZER, other, SYNTHESIZER)]
    assert all(len(spoken.sounds) == len(said[0].sounds) and len(spoken.words) == 2 for spoken in said)


def test_what_cannot_be_said_is_told() -> None:
    with pytest.raises(InputError, match="no such voice"):
        SYNTHESIZER.say("word", "not-a-language", words_per_minute=140, pitch=50)
    with pytest.raises(InputError, match="speaks nothing"):
        SYNTHESIZER.say(" ", "es", words_per_minute=140, pitch=50)


def test_it_tells_which_word_is_said_when() -> None:
    spoken = SYNTHESIZER.say("¡Un astronauta, dando un paseo!", "es", words_per_minute=140, pitch=50)
    assert [word for _, word in spoken.words] == ["Un", "astronauta", "dando", "un", "paseo"]
    for start, _ in spoken.words:  # each begins with a sound
        assert min(abs(sound - start) for sound, _ in spoken.sounds) < 0.05


def test_clips_are_labelled_and_never_alike() -> None:
    captions = SpokenCaptions([thing("dog", es="Un perro.", en="A dog."), thing("cat", es="Un gato.")], SYNTHESIZER)
    assert list(captions.words) == ["a", "dog", "gato", "perro", "un"]
    clips, words = list(captions.takes(32, 1)), list(captions.words)
    heard = set()
    loud, quiet = [], []
    for clip in clips:
        waveform, sounds = clip.waveform, clip.sounds
        assert waveform.dtype == torch.float32 and len(sounds) == len(clip.words) == len(waveform) // 320
        assert abs(waveform.mean()) < 0.1 and 0.7 < waveform.std() < 1.3  # short ones are repeated
        assert len(waveform) / SAMPLE_RATE < LONGEST / 0.8 + 0.3
        letters = [LETTERS[x - 1] for x in torch.unique_consecutive(sounds).tolist() if x != SILENCE]
        said = [words[x] for x in torch.unique_consecutive(clip.words).tolist() if x != UNKNOWN]
        heard.add(("".join(letters), " ".join(said)))
        assert clip.caption == ("cat" if "gato" in said else "A dog.")
        power = waveform[: len(sounds) * 320].view(-1, 320).square().mean(dim=1)
        loud.append(power[sounds != SILENCE])
        quiet.append(power[sounds == SILENCE])
        assert (clip.words[sounds != SILENCE] != UNKNOWN).all()
    assert torch.cat(loud).mean() > 3 * torch.cat(quiet).mean()
    for letters, said in (("umpero", "un perro"), ("uŋɡato", "un gato")):
        assert any(letters in a and said in b for a, b in heard)
    other = captions.takes(32, 2)
    assert not any(torch.equal(a.waveform, b.waveform) for a, b in zip(clips, other, strict=True))


def test_voices_stay_within_their_speeds_and_pitches() -> None:
    asked = []

    class Noted(Synthesizer):
        def say(self, text: str, voice: str, *, words_per_minute: int, pitch: int) -> Utterance:
            asked.append((words_per_minute, pitch))
            return super().say(text, voice, words_per_minute=words_per_minute, pitch=pitch)

    list(SpokenCaptions([thing("cat", es="Un gato.")], Noted(ESPEAK)).takes(40, 1))
    for drawn, lowest, highest in zip(zip(*asked, strict=True), (SLOWEST, LOWEST), (FASTEST, HIGHEST), strict=True):
        spread = highest - lowest
        assert lowest <= min(drawn) < lowest + spread / 4 and highest - spread / 4 < max(drawn) <= highest


def test_held_out_captions_are_not_spoken() -> None:
    items = [thing("dog", es="Un perro."), thing("cat", es="Un gato.")]
    assert SpokenCaptions(items, SYNTHESIZER, {"un gato"}).texts["es"] == [("Un perro.", "dog")]
    with pytest.raises(ValueError, match="no caption to speak"):
        SpokenCaptions(items, SYNTHESIZER, {"un gato", "un perro"})


def test_captions_that_cannot_be_spoken_are_passed_over() -> None:
    captions = SpokenCaptions([thing("sign", es="..."), thing("cat", es="Un gato.")], SYNTHESIZER)
    assert len(list(captions.takes(4, 1))) == 4


def test_captions_of_the_wrong_length_end_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_captions, "ATTEMPTS", 5)
    long = " ".join(["palabra"] * 40)
    with pytest.raises(ValueError, match="none of 5 captions drawn lasts 0.2 to 2 seconds"):
        list(SpokenCaptions([thing("words", es=long)], SYNTHESIZER).takes(1, 1))


def test_captions_are_spoken_in_voices_that_never_read_them() -> None:
    """Somebody said each of the sounds of one caption, in another order; nobody those of the other caption."""
    captions = SpokenCaptions([thing("dog", es="Un perro."), thing("fish", es="Ajo.")], SYNTHESIZER)
    sounds = [SILENCE, *(LETTERS.index(letter) + 1 for letter in "orepmu"), SILENCE]
    starts = [(0.1 * n, sound) for n, sound in enumerate(sounds)]
    noise = torch.randn(int(0.1 * len(sounds) * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)).half()
    speech = [LabelledSpeech(noise, starts, [(0.0, UNKNOWN)], "Something.", "ann")]
    clips = list(captions.spliced_takes(speech, 40, 1))
    assert 10 < len(clips) < 30 and {clip.caption for clip in clips} == {"dog"}
    letters = [LETTERS[x - 1] for x in torch.unique_consecutive(clips[0].sounds).tolist() if x != SILENCE]
    assert "umpero" in "".join(letters)
    assert list(captions.spliced_takes([], 40, 1)) == []
