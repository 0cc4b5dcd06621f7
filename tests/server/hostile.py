"""Files that are made to do harm: bombs, disguises, broken ones."""

from __future__ import annotations

import io
import os
import signal
import struct
import threading
import zipfile
import zlib
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image


def picture(color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (48, 40), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def sound(hertz: float = 440.0, seconds: float = 0.5, kind: str = "WAV") -> bytes:
    time = np.arange(int(16_000 * seconds)) / 16_000
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * hertz * time), 16_000, format=kind)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels, with a few kilobytes of data that would fill many of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(4 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_chunk_bomb() -> bytes:
    """A small PNG with a compressed comment of 256 MiB."""
    plain = picture()
    packed = zlib.compress(bytes(256 << 20), 9)
    body = b"zTXt" + b"Comment\x00\x00" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return plain[:33] + chunk + plain[33:]


def silent_flac(seconds: int) -> bytes:
    """Silence packs to nearly nothing."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(seconds // 60):
            file.write(np.zeros(8_000 * 60, np.float32))
    return buffer.getvalue()


def picture_and_zip() -> bytes:
    """A PNG that every zip program opens."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo("run.sh"), "echo")  # of a fixed date: the same bytes at every call
    return picture() + archive.getvalue()


def picture_and_page() -> bytes:
    """A GIF whose comment is a web page, within the bytes that browsers guess by."""
    plain = picture(kind="GIF")
    script = b"<script>alert(document.domain)</script>"
    comment = b"\x21\xfe" + bytes([len(script)]) + script + b"\x00"
    at = plain.index(b"\x2c")  # before the image
    return plain[:at] + comment + plain[at:]


def script_as_gif() -> bytes:
    """JavaScript that begins like a GIF."""
    return b"GIF89a=1;alert(document.domain)//"


def playlist() -> bytes:
    """A text that makes some decoders open other files and addresses."""
    return b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\nhttp://127.0.0.1:9/x.ts\n"


def svg_with_entity() -> bytes:
    """A drawing that would include a file of the server."""
    return (
        b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>&x;</text></svg>'
    )


class Slow:
    """A processor that never ends, or ends its process."""

    def views(self, source: bytes) -> Any:
        if source == b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if source == b"hang":
            threading.Event().wait()
        return [{"pixels": torch.ones(2)}]
