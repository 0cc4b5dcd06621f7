"""The kinds of files that a library takes in, and how each is read: once, for the model and for the eye."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from one_peace.errors import InputError
from one_peace.modalities.pictures import decode_picture
from one_peace.modalities.sounds import SAMPLE_RATE, decode_sound
from one_peace.modalities.sources import describe, looks_like_text
from one_peace.search.waveform import draw_waveform

THUMBNAIL = 256  # pixels of its longer side
_TEXT_BYTES = 8_000
_TEXT_LENGTH = 2_000  # characters that are read of a text; the model takes fewer


@dataclass(frozen=True, eq=False)
class Content:
    """A file as read: `source` is for the model's `encode_modality`, `nbytes` is what it takes in memory.

    `caption` is "" where the contents say nothing readable; `duration` is in seconds.
    """

    source: Any
    nbytes: int
    caption: str = ""
    duration: float | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Kind:
    """Files of one modality: the endings of their names, and a reader, which may raise `InputError`."""

    endings: str  # separated by spaces
    read: Callable[[Path], Content]


def kind_of(path: Path) -> str | None:
    """The modality of a file by its name, or None."""
    return _BY_ENDING.get(path.suffix.lower())


def caption_beside(path: Path) -> str:
    """The caption of a picture or sound: the first line of the .txt file beside it, else its own name."""
    try:
        with open(path.with_suffix(".txt"), encoding="utf-8-sig", errors="replace") as file:
            line = " ".join(file.readline(_TEXT_LENGTH).split())
    except OSError:
        line = ""
    return line or describe(path.stem)


def thumbnail_of(picture: Image.Image) -> bytes:
    """A small JPEG of an RGB picture."""
    scale = THUMBNAIL / max(picture.size)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _read_picture(path: Path) -> Content:
    picture = decode_picture(path)
    return Content(picture, 3 * picture.width * picture.height, thumbnail=thumbnail_of(picture))


def _read_sound(path: Path) -> Content:
    waveform: np.ndarray = decode_sound(path)
    drawing = thumbnail_of(draw_waveform(waveform, (THUMBNAIL, THUMBNAIL)))
    return Content(waveform, waveform.nbytes, duration=len(waveform) / SAMPLE_RATE, thumbnail=drawing)


def _read_text(path: Path) -> Content:
    with open(path, "rb") as file:
        head = file.read(_TEXT_BYTES)
    if not looks_like_text(head):
        raise InputError(describe(path), "is not UTF-8 text")
    text = head.decode("utf-8-sig", errors="ignore")[:_TEXT_LENGTH].strip()
    if not text:
        raise InputError(describe(path), "holds no text")
    return Content(text, len(text), caption=" ".join(text.split())[:200])


KINDS: dict[str, Kind] = {
    "image": Kind(
        ".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .avif .jp2 .ppm .pgm .pbm .qoi .ico",
        _read_picture,
    ),
    "audio": Kind(
        ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .m4a .aac .wma .amr .weba .mka",
        _read_sound,
    ),
    "text": Kind(".txt .md", _read_text),
}
_BY_ENDING = {ending: modality for modality, kind in KINDS.items() for ending in kind.endings.split()}
