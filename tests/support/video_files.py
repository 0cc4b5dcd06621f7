"""Small videos for tests, made on the spot."""

from __future__ import annotations

import builtins
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

LEVEL = 8  # each frame is a grey this much lighter than the one before


def grey_frames(count: int, width: int = 32, height: int = 16) -> np.ndarray:
    """(count, height, width, 3) uint8; frame n is of grey n * LEVEL."""
    levels = (np.arange(count) * LEVEL % 256).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def film(frames: np.ndarray, container: str = "mp4", codec: str = "libx264", rate: int = 10, **options: str) -> bytes:
    """An encoded video of frames (count, height, width, 3) with a key frame every 12."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        try:
            stream = output.add_stream(codec, rate=rate, options=options)
        except Exception:  # FFmpeg builds differ in the encoders they have
            pytest.skip(f"this FFmpeg does not encode {codec}")
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def film_with_sound(seconds: int, sounding: int | None = None, rate: int = 16_000) -> bytes:
    """An MKV of noise in ten frames a second, with noise to it for `sounding` seconds: it states one length."""
    av = pytest.importorskip("av")
    random, buffer = np.random.default_rng(0), io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        pictures = output.add_stream("mpeg4", rate=10, width=32, height=16, pix_fmt="yuv420p")
        sound = output.add_stream("pcm_s16le", rate=rate, layout="mono")
        for number in range(10 * seconds):
            pixels = random.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            output.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            if sounding is not None and number >= 10 * sounding:
                continue
            samples = random.integers(-9000, 9000, (1, rate // 10)).astype(np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.rate, heard.pts = rate, number * rate // 10
            output.mux(sound.encode(heard))
        output.mux([*pictures.encode(), *sound.encode()])
    return buffer.getvalue()


def animation(frames: np.ndarray, kind: str = "WEBP", milliseconds: Any = 100, **options: Any) -> bytes:
    """A lossless animated picture."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    if kind == "WEBP":
        options["lossless"] = True
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], duration=milliseconds, **options)
    return buffer.getvalue()


def hide_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes imports of PyAV fail as where the extra `video` is not installed."""
    real = builtins.__import__

    def without_av(name: str, *args: Any, **options: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_av)
