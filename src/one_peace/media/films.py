"""Films: the frames of MP4, WebM and the like, with PyAV (the extra `video`)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import PIL.Image

from one_peace.errors import InputError, MissingExtraError
from one_peace.media.clip import Clip, check_count, check_frame_size, decoding
from one_peace.media.containers import Extent


@contextmanager
def open_film(stream: BinaryIO, container: str | None, name: str) -> Iterator[Clip]:
    """The pictures of a container. Errors as of `open_video`."""
    if container is None:
        raise InputError(name, "is not a video we can read (MP4, WebM, MKV, AVI, MPEG, animated WebP or GIF, ...)")
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"reading {name} (a {container} file)", "video") from error
    with decoding(name):
        opened = av.open(stream, mode="r", format=container)
    with opened:
        yield _Film(opened, container == "avi", name)


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
        check_frame_size(track.codec_context.width, track.codec_context.height, name)
        check_count(track.frames or 1, name)  # as the header says
        self.extent = Extent(opened, track, name)
        with decoding(name):
            packets = list(self._packets())
        self.count = len(packets)
        check_count(self.count, name)
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
            check_count(number + 1, self.name)
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
        with decoding(self.name):
            for frame in self._by_count(indices) if self.counted else self._by_time(indices):
                check_frame_size(frame.width, frame.height, self.name)
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
