"""Containers: the sound track of those that libsndfile does not read (MP4, WebM, ...), through PyAV, an extra; and
whether one is all there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from one_peace.errors import InputError, MissingExtraError

NO_SOUND = "has no sound track"
"""What is wrong with a container of pictures alone."""


def too_long(name: str, max_seconds: float, seconds: float | None = None) -> InputError:
    """A sound over the limit, by its header (`seconds`) or by what came out of it."""
    lasts = "goes on" if seconds is None else f"lasts {seconds:,.0f} s by its header,"
    return InputError(name, f"{lasts} beyond the {max_seconds:g} s that are accepted; cut it first")


def check_ogg_ends(stream: BinaryIO, name: str) -> None:
    """`InputError` if the last page of an Ogg file is not whole. It says nowhere how long it is, and one that was
    recorded from a live stream has no mark at its end."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - 2 * _LONGEST_OGG_PAGE))
    tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    parts = page[_OGG_HEADER - 1] if len(page) >= _OGG_HEADER else 0
    if len(page) < _OGG_HEADER + parts + sum(page[_OGG_HEADER : _OGG_HEADER + parts]):
        raise InputError(name, "is truncated: its last page is not whole")


_OGG_HEADER = 27  # bytes; the last one counts the parts of the page, whose lengths follow
_LONGEST_OGG_PAGE = 65_307


def decode_container(
    stream: BinaryIO, container: str, name: str, max_seconds: float
) -> tuple[float, Iterator[np.ndarray]]:
    """The first sound track: its rate in Hz, and (samples, channels) float32 blocks as they are decoded.

    Raises:
        InputError: no sound track, longer than `max_seconds` by its header, or (while iterating) damaged.
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(f"reading {name} (a {container} file)", "video") from error

    try:
        opened = av.open(stream, mode="r", format=container)
    except Exception as error:  # PyAV's errors derive from many built-in ones
        raise InputError(name, f"is a damaged or truncated {container} file ({error})") from error
    if not opened.streams.audio:
        opened.close()
        raise InputError(name, NO_SOUND)
    track = opened.streams.audio[0]
    if track.codec_context is None or not track.rate:
        opened.close()
        raise InputError(name, "is damaged, or its sound is in a format that cannot be decoded")
    seconds = 0.0 if container in _GUESSED else _stated_seconds(opened, track)
    if seconds > max_seconds:
        opened.close()
        raise too_long(name, max_seconds, seconds)
    extent = Extent(opened, track, name, guessed=container in _GUESSED)
    return float(track.rate), _blocks(av, extent, seconds)


# Formats that state no length: FFmpeg extrapolates from the first packets, or finds the last one's time.
_GUESSED = ("aac", "amr", "mp3", "mpeg", "mpegts", "ogg")


_SLACK = 0.5  # seconds of sound that may be missing: encoders pad and trim


def _stated_seconds(opened: Any, track: Any) -> float:
    """The length of the sound track by its header, 0 if unknown. The file's may be that of its pictures."""
    if track.duration and track.time_base:
        # Of AVI and CAF, FFmpeg shortens the duration to what is there, and leaves the header's count as it is.
        return float(max(track.duration, track.frames) * track.time_base)
    return opened.duration / 1e6 if opened.duration and not opened.streams.video else 0.0


class Extent:
    """How far a container reaches, by all its packets: what states one length for all tracks (WebM, MKV) is cut off if
    none of them gets there."""

    def __init__(self, opened: Any, track: Any, name: str, *, guessed: bool = False) -> None:
        self.opened, self.track, self.name = opened, track, name
        self._stated = 0.0 if guessed or track.duration else (opened.duration or 0) / 1e6
        self._reached = 0.0

    def packets(self) -> Iterator[Any]:
        """Those of the track, the empty one that ends it included."""
        for packet in self.opened.demux():
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.time_base:
                self._reached = max(self._reached, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == self.track.index:
                yield packet

    def check(self, slack: float) -> None:
        """`InputError` if after all packets more than 2 % and `slack` seconds are missing."""
        if self._reached < 0.98 * self._stated - slack:
            raise InputError(
                self.name,
                f"is truncated: its header promises {self._stated:.1f} s, {self._reached:.1f} s are there",
            )


def _blocks(av: Any, extent: Extent, seconds: float) -> Iterator[np.ndarray]:
    decoded, track, name = 0, extent.track, extent.name
    with extent.opened:
        try:
            # Only the sample type is converted; channels and rate are left to the caller, as for other files.
            # Interleaved, because PyAV reads beyond its table of planes when a frame has more than 8 of them.
            convert = av.AudioResampler(format="flt", rate=track.rate)
            decoding = itertools.chain.from_iterable(packet.decode() for packet in extent.packets())
            frames = itertools.chain(decoding, (None,))  # None: what the resampler holds back
            for part in itertools.chain.from_iterable(convert.resample(frame) for frame in frames):
                block = part.to_ndarray().reshape(part.samples, part.layout.nb_channels)
                decoded += len(block)
                yield block
        except Exception as error:
            raise InputError(name, f"is a damaged or truncated sound track ({error})") from error
    extent.check(_SLACK)
    if decoded < (0.98 * seconds - _SLACK) * track.rate:
        raise InputError(name, f"is truncated: its header promises {seconds:.1f} s of sound")
