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
