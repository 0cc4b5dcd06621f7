"""Videos: frames of any usual input, which are picked by their numbers.

MP4, WebM and the like are read with PyAV (the extra `video`), animated WebP, GIF, PNG and AVIF with Pillow.
"""

from __future__ import annotations

import bisect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
from torch import Tensor

from one_peace.errors import InputError, MissingExtraError
from one_peace.media.arrays import plain_values
from one_peace.media.containers import Extent
from one_peace.media.pictures import decode_picture
from one_peace.media.signatures import container_of
from one_peace.media.sources import describe, is_stored, open_source

MAX_FRAMES = 216_000  # an hour at 60 frames a second
MAX_PIXELS = 36_000_000  # of a frame: 8K and a little more
_ANIMATIONS = ("WEBP", "GIF", "PNG", "AVIF")
_UNTIMED = 0.1  # seconds: how long players show a frame of an animation that does not say


class Clip(ABC):
    """An opened video of `count` frames; `name` is for messages."""

    name: str
    count: int

    @abstractmethod
    def timing(self) -> tuple[Sequence[float], float]:
        """When each frame appears, ascending from 0, and when the last one ends, in seconds."""

    @abstractmethod
    def pick(self, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
        """Frames by index (ascending), as upright RGB pictures, one at a time."""


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
        _check_count(self.count, name)

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
        _check_size(image.width, image.height, name)
        with _damaged(name):
            self.count = getattr(image, "n_frames", 1)
        if self.count == 1:
            raise InputError(name, "is a still picture; encode it as an image, or pass [picture] for one frame")
        _check_count(self.count, name)

    def timing(self) -> tuple[Sequence[float], float]:
        ends = [0.0]
        for index in range(self.count):
            with _damaged(self.name):
                self.image.seek(index)
                self.image.load()  # some formats tell a frame's duration only then
            ends.append(ends[-1] + (self.image.info.get("duration") or 1000 * _UNTIMED) / 1000)
        return ends[:-1], ends[-1]

    def pick(self, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
        for index in indices:
            with _damaged(self.name):
                self.image.seek(index)
            yield _picture(self.image, index, self.name)


class _Film(Clip):
    """The pictures of a container. Its packets say what frames there are; only those asked for are converted."""

    def __init__(self, opened: Any, counted: bool, name: str) -> None:
        from av.stream import Disposition

        self.name, self.opened = name, opened
        cover = Disposition.attached_pic  # of a song: a picture in a video stream of its own
        tracks = [track for track in opened.streams.video if not track.disposition & cover]
        if not tracks:
            raise InputError(
                name, "has no video stream" if opened.streams else "is damaged or truncated: nothing is in it"
            )
        self.track = track = tracks[0]
        if track.codec_context is None or not track.time_base:
            raise InputError(name, "is damaged, or its pictures are in a format that cannot be decoded")
        _check_size(track.codec_context.width, track.codec_context.height, name)
        _check_count(track.frames or 1, name)  # as the header says
        self.extent = Extent(opened, track, name)
        with _damaged(name):
            packets = list(self._packets())
        self.count = len(packets)
        _check_count(self.count, name)
        # AVI and some other files say only when a frame is decoded, not when it is shown: there they are counted.
        self.counted = counted or any(packet.pts is None for packet in packets)
        self.stamps = sorted(packet.dts if packet.pts is None or self.counted else packet.pts for packet in packets)
        self.keys = sorted((packet.pts or 0, packet.dts) for packet in packets if packet.key)
        self.first = min(packet.dts for packet in packets)
        self.end = max(self.stamps[-1] + 1, max(packet.end for packet in packets))
        # AVI counts moments: where a picture stays as it was, no packet comes.
        self._check_whole(max(self.count, self.end) if counted else self.count)

    def _packets(self) -> Iterator[_Packet]:
        for number, packet in enumerate(self.extent.packets()):
            if packet.is_corrupt:
                raise InputError(self.name, "is truncated: a frame in it is not whole")
            stamps = [stamp for stamp in (packet.dts, packet.pts) if stamp is not None]
            if not packet.size or packet.is_discard:
                continue
            if not stamps:
                raise InputError(self.name, "has frames without a time; convert it to MP4 or WebM")
            _check_count(number + 1, self.name)
            yield _Packet(stamps[0], packet.pts, stamps[-1] + (packet.duration or 0), packet.is_keyframe)

    def _check_whole(self, frames: int) -> None:
        track = self.track
        if frames < track.frames:
            raise InputError(self.name, f"is truncated: its header promises {track.frames} frames, {frames} are there")
        _, seconds = self.timing()
        slack = max(0.1, 1.5 * seconds / self.count)
        self.extent.check(slack)
        stated = float((track.duration or 0) * track.time_base)
        if seconds < 0.98 * stated - slack:
            raise InputError(self.name, f"is truncated: its header promises {stated:.1f} s, {seconds:.1f} s are there")

    def timing(self) -> tuple[Sequence[float], float]:
        unit, begin = self.track.time_base, self.stamps[0]
        return [float((stamp - begin) * unit) for stamp in self.stamps], float((self.end - begin) * unit)

    def pick(self, indices: Sequence[int]) -> Iterator[PIL.Image.Image]:
        with _damaged(self.name):
            for frame in self._by_count(indices) if self.counted else self._by_time(indices):
                _check_size(frame.width, frame.height, self.name)
                picture = frame.to_image()
                yield picture.rotate(frame.rotation, expand=True) if frame.rotation else picture

    def _by_count(self, indices: Sequence[int]) -> Iterator[Any]:
        decoded, frame, number = self._decode(self.first), None, -1
        for index in indices:
            while number < index:
                frame, number = self._next(decoded, index), number + 1
            yield frame

    def _by_time(self, indices: Sequence[int]) -> Iterator[Any]:
        """From the key frame before each."""
        decoded: Iterator[Any] = iter(())
        frame: Any = None
        reached: int | None = None  # number of the key frame that decoding started from
        for index in indices:
            stamp = self.stamps[index]
            key = bisect.bisect_right(self.keys, (stamp, math.inf)) - 1
            if reached is None or key > reached:
                decoded, reached = self._decode(self.keys[key][1] if key >= 0 else self.first), key
                frame = next(decoded, None)
                if frame is None or frame.pts is None or frame.pts > stamp:  # some containers seek inexactly
                    decoded = self._decode(self.first)
                    frame = self._next(decoded, index)
            while frame.pts is None or frame.pts < stamp:
                frame = self._next(decoded, index)
            yield frame

    def _decode(self, start: int) -> Iterator[Any]:
        self.opened.seek(start, stream=self.track)
        frames: Iterator[Any] = self.opened.decode(self.track)
        return frames

    def _next(self, decoded: Iterator[Any], index: int) -> Any:
        frame = next(decoded, None)
        if frame is None:
            raise InputError(self.name, f"is damaged or truncated: frame {index + 1} of {self.count} is missing")
        return frame


@dataclass(frozen=True)
class _Packet:
    """When a frame is decoded, shown (None: unknown) and over, in units of its track's time base."""

    dts: int
    pts: int | None
    end: int
    key: bool


def _open_stored(stream: BinaryIO, name: str) -> AbstractContextManager[Clip]:
    head = stream.read(4096)
    if not head:
        raise InputError(name, "the file is empty")
    if head.startswith(b"GIF8"):
        _check_gif_ends(stream, name)
    stream.seek(0)
    if head.startswith((b"GIF8", b"\x89PNG")) or head[8:12] in (b"WEBP", b"avis", b"avif"):
        return _open_animation(stream, name)
    return _open_film(stream, container_of(head), name)


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


@contextmanager
def _open_film(stream: BinaryIO, container: str | None, name: str) -> Iterator[Clip]:
    if container is None:
        raise InputError(name, "is not a video we can read (MP4, WebM, MKV, AVI, MPEG, animated WebP or GIF, ...)")
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"reading {name} (a {container} file)", "video") from error
    with _damaged(name):
        opened = av.open(stream, mode="r", format=container)
    with opened:
        yield _Film(opened, container == "avi", name)


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """What decoders raise as an `InputError`; their errors derive from many built-in ones."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(name, f"is a damaged or truncated video ({reason})") from error


def _picture(source: Any, index: int, name: str) -> PIL.Image.Image:
    try:
        return decode_picture(source, max_pixels=MAX_PIXELS)
    except InputError as error:
        raise InputError(name, f"frame {index + 1} {error.problem}") from error


def _check_finite(array: Any, name: str) -> None:
    values = plain_values(array, name) if isinstance(array, Tensor) else array
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(name, "holds NaN or infinite values")


def _check_count(count: int, name: str) -> None:
    if count < 1:
        raise InputError(name, "has no frames")
    if count > MAX_FRAMES:
        raise InputError(name, f"has {count:,} frames or more (at most {MAX_FRAMES:,} are accepted); cut it first")


def _check_size(width: int, height: int, name: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(name, f"has frames of {width} x {height} pixels (1 to {MAX_PIXELS:,} are accepted)")
