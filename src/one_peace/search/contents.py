"""What is read of a file: pieces for the model, and what people see of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from one_peace.media.sounds import SAMPLE_RATE

THUMBNAIL = 256  # pixels of its longer side
SEGMENT = 30.0  # seconds; a sound of more than two of these is cut into such


@dataclass(frozen=True, eq=False)
class Piece:
    """What the model sees of a file as one input: all of a picture, a frame of a video, a passage of a text.

    `source` is for `encode_modality` of `branch`, `nbytes` is what it takes in memory. `label` says what it is and
    `start` where it begins, in seconds, if it is not the whole file; then it may have its own caption and thumbnail.
    """

    branch: str
    source: Any
    nbytes: int
    label: str = ""
    start: float | None = None
    caption: str = ""
    thumbnail: bytes | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """A file as read, in one or more pieces.

    `caption` is "" where the contents say nothing readable; `duration` is in seconds. `problem` is what was left out
    because it could not be read.
    """

    pieces: list[Piece]
    caption: str = ""
    duration: float | None = None
    thumbnail: bytes | None = None
    problem: str = ""

    @property
    def nbytes(self) -> int:
        """Of all pieces."""
        return sum(piece.nbytes for piece in self.pieces)


def thumbnail_of(picture: Image.Image) -> bytes:
    """A small JPEG of an RGB picture."""
    scale = THUMBNAIL / max(picture.size)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def sound_pieces(waveform: np.ndarray) -> list[Piece]:
    """A waveform (n,) at 16 kHz as one piece, or if it is long as several that cover it."""
    seconds = len(waveform) / SAMPLE_RATE
    count = max(1, int(seconds // SEGMENT))
    if count <= 2:
        return [Piece("audio", waveform, waveform.nbytes)]
    # A copy each, for none is to keep the whole recording in memory.
    parts = [part.copy() for part in np.array_split(waveform, count)]
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]) / SAMPLE_RATE
    return [
        Piece("audio", part, part.nbytes, label=f"from {clock(start)}", start=float(start))
        for part, start in zip(parts, starts, strict=True)
    ]


def clock(seconds: float) -> str:
    """Minutes and seconds, `1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
