"""An opened video: frames by number and time, and how many, and how large, are accepted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import PIL.Image

from one_peace.errors import InputError

MAX_FRAMES = 216_000  # an hour at 60 frames a second
MAX_PIXELS = 36_000_000  # of a frame: 8K and a little more


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


def check_count(count: int, name: str) -> None:
    """`InputError` for a number of frames that is not accepted."""
    if count < 1:
        raise InputError(name, "has no frames")
    if count > MAX_FRAMES:
        raise InputError(name, f"has {count:,} frames or more (at most {MAX_FRAMES:,} are accepted); cut it first")


def check_frame_size(width: int, height: int, name: str) -> None:
    """`InputError` for a size of frames that is not accepted."""
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(name, f"has frames of {width} x {height} pixels (1 to {MAX_PIXELS:,} are accepted)")


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """While a decoder works: what it raises as an `InputError`; its errors derive from many built-in ones."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(name, f"is a damaged or truncated video ({reason})") from error
