"""eSpeak NG as the test extra brings it, and things to speak of."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import soundfile

from one_peace.data.manifest import Item
from one_peace.data.speech.speech_synthesis import Synthesizer


def package() -> Path:
    found = importlib.util.find_spec("espeakng_loader")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


ESPEAK = package()
SYNTHESIZER = Synthesizer(ESPEAK)
RATE, SPEED, PITCH = 16_000, 110, 60


def thing(name: str, **texts: str) -> Item:
    """A sound of something with one caption in each language."""
    captions = {language: [text] for language, text in texts.items()}
    return Item(f"stamps/{name}", "audio", Path("/none"), name, "train", "stamps", "1", "GPL", captions)


def spoken(folder: Path, caption: str = "Un perro.", language: str = "es", name: str = "dog") -> Item:
    """A clip of the caption, as if somebody had recorded it."""
    said = SYNTHESIZER.say(caption, language, words_per_minute=SPEED, pitch=PITCH)
    soundfile.write(folder / f"{name}.wav", said.waveform, RATE)
    item = thing(name, **{language: caption})
    return dataclasses.replace(item, path=folder / f"{name}.wav", track="speech", language=language)
