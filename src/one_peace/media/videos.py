"""Videos: frames of any usual input, which are picked by their numbers.

MP4, WebM and the like are films (`films.py`); animated WebP, GIF, PNG and AVIF are read with Pillow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.arrays import plain_values
from one_peace.media.clip import MAX_PIXELS, Clip, check_count, check_frame_size, decoding
from one_peace.media.films import open_film
from one_peace.media.pictures import decode_picture
from one_peace.media.signatures import container_of
from one_peace.media.sources import describe, is_stored, open_source

_ANIMATIONS = ("WEBP", "GIF", "PNG", "AVIF")
_UNTIMED = 0.1  # seconds: how long players show a frame of an animation that does not say


@contextmanager
def open_video(source: Any) -> Iterator[Clip]:
    """A video to take frames from, in any of these forms.

    * A path, file:// or data: URL, bytes or binary file object holding MP4, MOV, WebM, MKV, AVI, MPEG, ... (with the
      extra `video`), or an animated WebP, GIF, PNG or AVIF; what is transparent comes out white;
    * an array (frames, height, width, 3) or tensor (also (frames, 3, height, width)), of values as for pictures;
    * a list or tuple of pictures in any form that `decode_picture` takes;
    * (frames, frames per second), where the frames are one of the last two.

    Raises:
        InputError: not a video, damaged or truncated, no frames, NaN, more than `MAX_FRAMES` frames or `MAX_PIXELS`
            pixels in one of them. Also while frames are picked.
        MissingExtraError: a container that needs the extra `video`, which is not installed.
    """
    name = describe(source)
    if is_stored(source):
        with open_source(source) as stream, _open_stored(stream, name) as clip:
            yield clip
        return
    rate = None
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], int | float | np.integer | np.floating):
        source, rate = source
        if not 0 < rate < math.inf:
            raise InputError(name, f"has {rate} frames per second; expected a positive number")
    if isinstance(source, PIL.Image.Image):
        raise InputError(name, "is a single picture; encode it as an image, or pass a tuple of the frames")
    if isinstance(source, np.ndarray | Tensor):
        if source.ndim != 4:
            raise InputError(name, f"has rank {source.ndim}; the frames of a video are (frames, height, width, 3)")
        _check_finite(source, name)
    elif not isinstance(source, list | tuple):
        raise InputError(name, "expected a video: a path, bytes, a file, an array of frames or a list of pictures")
    yield _Frames(source, rate, name)


class _Frames(Clip):
    """Frames in memory."""

    def __init__(self, frames: Any, rate: float | None, name: str) -> None:
        self.name, self.frames, self.rate, self.count = name, frames, rate, len(frames)
        check_count(self.count, name)

    def timing(self) -> tuple[Sequence[float], float]:
        if self.rate is None:
            raise InputError(self.name, "has no times, which this model chooses frames by; pass (frames, rate)")
        return [index / self.rate for index in range(self.count)], self.count / self.rate

    def pick(self, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
        for index in indices:
            yield _picture(self.frames[index], index, self.name)


class _Animation(Clip):
    """A picture file with several frames."""

    def __init__(self, image: PIL.Image.Image, name: str) -> None:
        self.image, self.name = image, name
        check_frame_size(image.width, image.height, name)
        with decoding(name):
            self.count = getattr(image, "n_frames", 1)
        if self.count == 1:
            raise InputError(name, "is a still picture; encode it as an image, or pass [picture] for one frame")
        check_count(self.count, name)

    def timing(self) -> tuple[Sequence[float], float]:
        ends = [0.0]
        for index in range(self.count):
            with decoding(self.name):
                self.image.seek(index)
                self.image.load()  # some formats tell a frame's duration only then
            ends.append(ends[-1] + (self.image.info.get("duration") or 1000 * _UNTIMED) / 1000)
        return ends[:-1], ends[-1]

    def pick(self, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
        for index in indices:
            with decoding(self.name):
                self.image.seek(index)
            yield _picture(self.image, index, self.name)


def _open_stored(stream: BinaryIO, name: str) -> AbstractContextManager[Clip]:
    head = stream.read(4096)
    if not head:
        raise InputError(name, "the file is empty")
    if head.startswith(b"GIF8"):
        _check_gif_ends(stream, name)
    stream.seek(0)
    if head.startswith((b"GIF8", b"\x89PNG")) or head[8:12] in (b"WEBP", b"avis", b"avif"):
        return _open_animation(stream, name)
    return open_film(stream, container_of(head), name)


@contextmanager
def _open_animation(stream: BinaryIO, name: str) -> Iterator[Clip]:
    try:
        image = PIL.Image.open(stream, formats=_ANIMATIONS)
    except Exception as error:  # on damaged files Pillow's readers raise nearly every type there is
        raise InputError(name, f"is a damaged or truncated animation ({error})") from error
    with image:
        yield _Animation(image, name)


def _check_gif_ends(stream: BinaryIO, name: str) -> None:
    """A GIF says nowhere how many frames it has: what tells whether all are there is its last byte."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - 256))
    if not stream.read().rstrip(b"\0\r\n ").endswith(b";"):  # some programs fill files up
        raise InputError(name, "is a truncated animation: its end is missing")


def _picture(source: Any, index: int, name: str) -> PIL.Image.Image:
    try:
        return decode_picture(source, max_pixels=MAX_PIXELS)
    except InputError as error:
        raise InputError(name, f"frame {index + 1} {error.problem}") from error


def _check_finite(array: Any, name: str) -> None:
    values = plain_values(array, name) if isinstance(array, Tensor) else array
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(name, "holds NaN or infinite values")
