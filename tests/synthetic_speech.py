"""eSpeak NG as the test extra brings it, and things to speak of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from one_peace.data.manifest import Item
from one_peace.data.speech_synthesis import Synthesizer


def package() -> Path:
    found = importlib.util.find_spec("espeakng_loader")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


ESPEAK = package()
SYNTHESIZER = Synthesizer(ESPEAK)


def thing(name: str, **texts: str) -> Item:
    """A sound of something with one caption in each language."""
    captions = {language: [text] for language, text in texts.items()}
    return Item(f"stamps/{name}", "audio", Path("/none"), name, "train", "stamps", "1", "GPL", captions)
