"""Small data sets on disk for the tests of sources and loading."""

from __future__ import annotations

import base64
import csv
import http.server
import io
import json
import tarfile
import wave
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loopback import running

RATE = 16000


def png(shade: int) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 255 - shade % 256, 40)).save(out, "PNG")
    return out.getvalue()


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        rng = np.random.default_rng(int(1000 * seconds))
        file.writeframes((3000 * rng.standard_normal(int(seconds * RATE))).astype("<i2").tobytes())
    return out.getvalue()


def caption(number: int) -> str:
    """Captions of different lengths, no two alike."""
    return f"number {number}" + " and more" * (number * 7 % 12)


def write_table(path: Path, media: Sequence[bytes], texts: Sequence[str] | None = None) -> Path:
    """A table as published, with pictures as base64."""
    texts = texts or [caption(n) for n in range(len(media))]
    rows = [
        f"id{n}\t{base64.urlsafe_b64encode(m).decode()}\t{text}"
        for n, (m, text) in enumerate(zip(media, texts, strict=True))
    ]
    path.write_text("\n".join(["uniq_id\timage\ttext", *rows]) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def write_shards(folder: Path, shards: int, pairs: int) -> str:
    """Shards of pictures, numbered through; their brace pattern."""
    for shard in range(shards):
        members: dict[str, bytes] = {}
        for number in range(shard * pairs, (shard + 1) * pairs):
            members |= {f"{number:05d}.png": png(number), f"{number:05d}.txt": caption(number).encode()}
        write_tar(folder / f"train-{shard:03d}.tar", members)
    return f"{folder}/train-{{000..{shards - 1:03d}}}.tar"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on the loopback address with ranges; of each file it cuts the first `cuts` answers short."""

    daemon_threads = True

    def __init__(self, folder: Path, cuts: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.cuts = folder, cuts
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        file = server.folder / self.path.partition("?")[0].strip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", '"one"')
        self.end_headers()
        seen = sum(path == self.path for path, _ in server.requests)
        rest = content[start:]
        self.wfile.write(rest[: len(rest) // 2] if seen <= server.cuts else rest)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def serving(folder: Path, cuts: int = 0) -> AbstractContextManager[Server]:
    return running(Server(folder, cuts))
