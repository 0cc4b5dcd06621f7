"""Captions of the stamps spoken by eSpeak NG, in voices that change from clip to clip: for training only.

A model that is to understand a speaker it never heard needs more voices of that language than none, and eSpeak NG
tells what it says when. The library comes ready-built inside the Python package `espeakng-loader`; it is called
through `ctypes`, in this process.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from one_peace.atomic_files import replacing
from one_peace.data.manifest import Item
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.errors import InputError

PACKAGE = Package("pypi", "espeakng-loader", "GPL-3.0-or-later")

SAMPLE_RATE = 16_000

# Clips per caption. Spanish and English have many: their real speakers are held out.
RENDERS = {"en": 6, "es": 6, "be": 1, "bg": 1, "ca": 1, "da": 1, "el": 1, "fr": 1, "ro": 1, "ru": 1}
ACCENTS = {"en": ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029"), "es": ("es", "es-419")}
# Voice variants of eSpeak NG that sound like people (others are robots and croaks).
VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8",
    "+Alicia", "+Andrea", "+Andy", "+Annie", "+Hugo", "+Lee", "+Mario", "+Michael", "+anika", "+antonio",
    "+belinda", "+linda", "+marcelo", "+michel", "+paul", "+pedro", "+rob", "+sandro", "+steph", "+victor",
)  # fmt: skip
SLOWEST, FASTEST = 105, 185  # words per minute
LOWEST, HIGHEST = 30, 70  # pitch, of 100

_SYNCHRONOUS = 2
_PHONEME_EVENTS, _IN_IPA = 1 << 0, 1 << 1
_NO_EXIT = 1 << 15  # report errors instead of ending the process
_RATE, _PITCH = 1, 3
_CHARACTERS, _UTF8 = 1, 1
_QUIET = 1e-3
_LAST_EVENT, _WORD, _PHONEME = 0, 1, 7
_SPEAKING = threading.Lock()  # the library has one state in a process, however often it is opened


class _Event(ctypes.Structure):
    """What the library tells beside the samples: of words where they are in the text (characters, from 1), of phonemes
    the name, in at most eight bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Utterance:
    """Synthetic speech: `waveform` (samples,) float32 at 16 kHz, without the silence around it.

    `sounds` are the seconds at which a speech sound begins and its name in IPA, in their order; an empty name is a
    pause. `words` are the same of the words of the text.
    """

    waveform: np.ndarray
    sounds: list[tuple[float, str]]
    words: list[tuple[float, str]]


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
        self._rate = self._espeak.espeak_Initialize(
            _SYNCHRONOUS, 0, str(folder).encode(), _NO_EXIT | _PHONEME_EVENTS | _IN_IPA
        )
        if self._rate <= 0:
            raise InputError(str(folder), "eSpeak NG does not start with the data in this folder")
        self._chunks: list[bytes] = []
        self._sounds: list[tuple[int, str]] = []
        self._words: list[tuple[int, int, int]] = []
        self._callback = _CALLBACK(self._receive)  # kept: C holds no reference to it

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _LAST_EVENT:
            if events[index].type == _PHONEME:
                # a name may be cut in the middle of a letter
                self._sounds.append((events[index].sample, events[index].name.decode(errors="ignore")))
            elif events[index].type == _WORD:
                first = events[index].text_position - 1
                self._words.append((events[index].sample, first, first + events[index].length))
            index += 1
        return 0

    def say(self, text: str, voice: str, *, words_per_minute: int, pitch: int) -> Utterance:
        """Speaks a text.

        Raises:
            InputError: an unknown voice, or nothing in the text to speak.
        """
        import soxr

        with _SPEAKING:
            self._espeak.espeak_SetSynthCallback(self._callback)
            if self._espeak.espeak_SetVoiceByName(voice.encode()) != 0:
                raise InputError(voice, "eSpeak NG has no such voice")
            self._espeak.espeak_SetParameter(_RATE, words_per_minute, 0)
            self._espeak.espeak_SetParameter(_PITCH, pitch, 0)
            self._chunks.clear()
            self._sounds.clear()
            self._words.clear()
            data = text.encode() + b"\0"
            self._espeak.espeak_Synth(data, len(data), 0, _CHARACTERS, 0, _UTF8, None, None)
            self._espeak.espeak_Synchronize()
            samples, sounds, words = b"".join(self._chunks), list(self._sounds), list(self._words)
        waveform = np.frombuffer(samples, dtype=np.int16).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(waveform) > _QUIET)
        if len(loud) == 0:
            raise InputError(repr(text), f"voice {voice} speaks nothing")
        first, last = int(loud[0]), int(loud[-1])
        return Utterance(
            np.asarray(soxr.resample(waveform[first : last + 1], self._rate, SAMPLE_RATE)),
            # a name in brackets tells that the language changes
            [(max(0, at - first) / self._rate, name) for at, name in sounds if not name.startswith("(")],
            [(max(0, at - first) / self._rate, text[start:end]) for at, start, end in words],
        )


def open_synthesizer(package: Fetched) -> Synthesizer:
    """eSpeak NG as `PACKAGE` brings it."""
    return Synthesizer(package.files / "espeakng_loader")


def choose_voice(language: str, caption: str, take: int) -> tuple[str, int, int]:
    """Voice, words per minute and pitch of one take, drawn by hash: the same in every build."""
    digest = hashlib.sha256(f"{language}\0{caption}\0{take}".encode()).digest()
    accents = ACCENTS.get(language, (language,))
    voice = accents[digest[0] % len(accents)] + VARIANTS[digest[1] % len(VARIANTS)]
    rate = SLOWEST + digest[2] % (FASTEST - SLOWEST + 1)
    return voice, rate, LOWEST + digest[3] % (HIGHEST - LOWEST + 1)


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
                    synthesizer = synthesizer or open_synthesizer(package)
                    said = synthesizer.say(caption, voice, words_per_minute=rate, pitch=pitch)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as partial:
                        soundfile.write(partial, said.waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
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
