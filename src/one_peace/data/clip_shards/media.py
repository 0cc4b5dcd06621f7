"""A clip's frames and sound as files for a shard."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from one_peace.errors import MissingExtraError
from one_peace.media.sounds import SAMPLE_RATE

CODECS = ("libx264", "mpeg4")  # the first that this FFmpeg has
TICKS = 1000  # of a second: when a frame appears is kept to that


def fitted(pictures: Iterable[Image.Image], size: int) -> Iterator[Image.Image]:
    """Pictures with the shorter side at most `size`, and even sides of 16 pixels or more, as codecs want them."""
    for picture in pictures:
        scale = min(1.0, size / min(picture.size))
        width, height = (max(16, 2 * round(side * scale / 2)) for side in picture.size)
        yield picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def film(pictures: Iterable[Image.Image], times: Iterable[float]) -> bytes:
    """An MP4 of pictures of one size, each shown from its time on (seconds, ascending from 0).

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("writing clips of videos", "video") from error
    from fractions import Fraction

    codec = next(name for name in CODECS if name in av.codecs_available)
    content, last = io.BytesIO(), -1
    stream: Any = None
    with av.open(content, "w", format="mp4") as output:
        for picture, time in zip(pictures, times, strict=False):
            if stream is None:
                stream = output.add_stream(codec, rate=30)
                stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
                stream.codec_context.time_base = stream.time_base = Fraction(1, TICKS)
                # The same bytes whatever the machine, and every time: with instructions of its own choice x264 gives
                # other ones now and then.
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"x264-params": "cpu-independent=1"}
            frame = av.VideoFrame.from_image(picture.resize((stream.width, stream.height)))
            frame.pts = last = max(last + 1, round(time * TICKS))
            frame.time_base = Fraction(1, TICKS)
            output.mux(stream.encode(frame))
        assert stream is not None
        output.mux(stream.encode())
    return content.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=92)
    return content.getvalue()


def flac(waveform: np.ndarray) -> bytes:
    """A waveform (n,) at 16 kHz as a FLAC file of 16 bits."""
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, np.clip(waveform, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return content.getvalue()
