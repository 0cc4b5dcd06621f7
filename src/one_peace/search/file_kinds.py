"""The kinds of files that a library takes in, and how each is read: once, for the model and for the eye."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from one_peace.media.pictures import decode_picture
from one_peace.media.sounds import SAMPLE_RATE, decode_sound
from one_peace.modalities import get_modality, list_modalities
from one_peace.modalities.base import Modality
from one_peace.search.documents import passages_of
from one_peace.search.waveform import draw_waveform

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


@dataclass(frozen=True)
class Kind:
    """Files of one sort: the endings of their names, and a reader, which may raise `InputError`.

    `branches` are those of a model of which it takes at least one; the reader is told which there are.
    """

    endings: str  # separated by spaces
    branches: tuple[str, ...]
    read: Callable[[Path, Collection[str]], Content]


def kinds_for(modalities: Collection[str]) -> dict[str, Kind]:
    """By name, the kinds that a model of these modalities can take in, with those of registered modalities."""
    known = {name: kind for name, kind in KINDS.items() if any(branch in modalities for branch in kind.branches)}
    for name in modalities:
        if name not in KINDS and (endings := get_modality(name).endings):
            known[name] = Kind(endings, (name,), partial(_read_other, name))
    return known


def kind_of(path: Path, kinds: dict[str, Kind] | None = None) -> str | None:
    """The kind of a file by its name, or None; of those built in, where no others are given."""
    # x.depth.png is no picture, where depth is known
    for ending in ("".join(path.suffixes[-2:]).lower(), path.suffix.lower()):
        for name, kind in (KINDS if kinds is None else kinds).items():
            if ending and ending in kind.endings.split():
                return name
    return None


def has_pictures(modality: str) -> bool:
    """Whether what a library has of a modality is shown by a picture."""
    if modality in KINDS:
        return modality != "text"
    return modality in list_modalities() and type(get_modality(modality)).picture is not Modality.picture


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


def _read_picture(path: Path, branches: Collection[str]) -> Content:
    picture = decode_picture(path)
    piece = Piece("image", picture, 3 * picture.width * picture.height)
    return Content([piece], thumbnail=thumbnail_of(picture))


def _read_sound(path: Path, branches: Collection[str]) -> Content:
    waveform: np.ndarray = decode_sound(path)
    drawing = thumbnail_of(draw_waveform(waveform, (THUMBNAIL, THUMBNAIL)))
    return Content(sound_pieces(waveform), duration=len(waveform) / SAMPLE_RATE, thumbnail=drawing)


def _read_text(path: Path, branches: Collection[str]) -> Content:
    passages = passages_of(path)
    captions = [" ".join(passage.split()) for passage in passages]
    labels = [""] if len(passages) == 1 else [f"passage {n} of {len(passages)}" for n in range(1, len(passages) + 1)]
    pieces = [
        Piece("text", passage, len(passage), label=label, caption=caption if label else "")
        for passage, label, caption in zip(passages, labels, captions, strict=True)
    ]
    return Content(pieces, caption=captions[0])


def _read_video(path: Path, branches: Collection[str]) -> Content:
    from one_peace.search.videos import read_video

    return read_video(path, branches)


def _read_other(name: str, path: Path, branches: Collection[str]) -> Content:
    """A file of a modality that is known by its contract alone."""
    picture = get_modality(name).picture(path)
    thumbnail = None if picture is None else thumbnail_of(picture)
    return Content([Piece(name, path, path.stat().st_size)], thumbnail=thumbnail)


KINDS = {
    name: Kind(get_modality(name).endings, branches, read)
    for name, branches, read in (
        ("image", ("image",), _read_picture),
        ("audio", ("audio",), _read_sound),
        ("video", ("video", "image", "audio"), _read_video),
        ("text", ("text",), _read_text),
    )
}
