"""Captions of the stamps spoken by eSpeak NG, in voices that change from clip to clip: for training only.

A model that is to understand a speaker it never heard needs more voices of that language than none. The
library comes ready-built inside the Python package `espeakng-loader`; it is called through `ctypes`, in this
process.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from one_peace.data.manifest import Item
from one_peace.data.packages import Fetched, Package
from one_peace.errors import InputError

PACKAGE = Package("pypi", "espeakng-loader", "GPL-3.0-or-later")

SAMPLE_RATE = 16_000

# Clips per caption. Spanish and English have many: their real speakers are held out.
RENDERS = {"en": 6, "es": 6, "be": 1, "bg": 1, "ca": 1, "da": 1, "el": 1, "fr": 1, "ro": 1, "ru": 1}
_ACCENTS = {"en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029"), "es": ("es", "es-419")}
# Voice variants of eSpeak NG that sound like people (others are robots and croaks).
_VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8",
    "+Alicia", "+Andrea", "+Andy", "+Annie", "+Hugo", "+Lee", "+Mario", "+Michael", "+anika", "+antonio",
    "+belinda", "+linda", "+marcelo", "+michel", "+paul", "+pedro", "+rob", "+sandro", "+steph", "+victor",
)  # fmt: skip
_SLOWEST, _FASTEST = 105, 185  # words per minute
_LOWEST, _HIGHEST = 30, 70  # pitch, of 100

_SYNCHRONOUS = 2
_NO_EXIT = 1 << 15  # report errors instead of ending the process
_RATE, _PITCH = 1, 3
_CHARACTERS, _UTF8 = 1, 1
_QUIET = 1e-3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesizer:
    """eSpeak NG from the folder that holds its shared library and its data."""

    def __init__(self, folder: Path) -> None:
        library = next(iter(sorted(folder.glob("libespeak-ng.*"))), None)
        if library is None:
            raise InputError(str(folder), "no eSpeak NG library for this machine in the package")
        self._espeak = ctypes.CDLL(str(library))
        self._espeak.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._rate = self._espeak.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), _NO_EXIT)
        if self._rate <= 0:
            raise InputError(str(folder), "eSpeak NG does not start with the data in this folder")
        self._chunks: list[bytes] = []
        self._callback = _CALLBACK(self._receive)  # kept: C holds no reference to it
        self._espeak.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, *, words_per_minute: int, pitch: int) -> np.ndarray:
        """(samples,) float32 at 16 kHz, without the silence around it.

        Raises:
            InputError: an unknown voice, or nothing in the text to speak.
        """
        import soxr

        if self._espeak.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(voice, "eSpeak NG has no such voice")
        self._espeak.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._espeak.espeak_SetParameter(_PITCH, pitch, 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        self._espeak.espeak_Synth(data, len(data), 0, _CHARACTERS, 0, _UTF8, None, None)
        self._espeak.espeak_Synchronize()
        waveform = np.frombuffer(b"".join(self._chunks), dtype=np.int16).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(waveform) > _QUIET)
        if len(loud) == 0:
            raise InputError(repr(text), f"voice {voice} speaks nothing")
        return np.asarray(soxr.resample(waveform[loud[0] : loud[-1] + 1], self._rate, SAMPLE_RATE))


def choose_voice(language: str, caption: str, take: int) -> tuple[str, int, int]:
    """Voice, words per minute and pitch of one take, drawn by hash: the same in every build."""
    digest = hashlib.sha256(f"{language}\0{caption}\0{take}".encode()).digest()
    accents = _ACCENTS.get(language, (language,))
    voice = accents[digest[0] % len(accents)] + _VARIANTS[digest[1] % len(_VARIANTS)]
    rate = _SLOWEST + digest[2] % (_FASTEST - _SLOWEST + 1)
    return voice, rate, _LOWEST + digest[3] % (_HIGHEST - _LOWEST + 1)


def synthetic_items(package: Fetched, media: Path, earlier: Sequence[Item]) -> list[Item]:
    """Spoken captions of the stamps among `earlier`: every distinct caption of a group, every take.

    The manifest gives these clips no duration: eSpeak NG varies a little from run to run, the manifest must
    not.
    """
    import soundfile

    synthesizer: Synthesizer | None = None
    items = []
    spoken: set[tuple[str, str, str]] = set()
    for picture in earlier:
        if picture.kind != "image" or not picture.id.startswith("stamps/"):
            continue
        name = picture.id.removeprefix("stamps/")
        for language, takes in RENDERS.items():
            caption = picture.texts.get(language, [""])[0]
            if not caption or (picture.group, language, caption) in spoken:
                continue
            spoken.add((picture.group, language, caption))
            for take in range(takes):
                voice, rate, pitch = choose_voice(language, caption, take)
                path = media / language / f"{name}.{take}.flac"
                if not path.is_file():
                    synthesizer = synthesizer or Synthesizer(package.files / "espeakng_loader")
                    waveform = synthesizer.say(caption, voice, words_per_minute=rate, pitch=pitch)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_name(path.name + ".partial")
                    soundfile.write(partial, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                    partial.replace(path)
                items.append(
                    Item(
                        id=f"speech/{name}#{language}.{take}",
                        kind="audio",
                        path=path,
                        group=picture.group,
                        split=picture.split,
                        source=package.name,
                        version=package.version,
                        licence=picture.licence,  # of the words; the program's own does not extend to them
                        texts=picture.texts,
                        category=picture.category,
                        symbol=picture.symbol,
                        track="synthetic",
                        language=language,
                        speaker=f"espeak-ng:{voice}",
                        item=picture.id,
                    )
                )
    return items
