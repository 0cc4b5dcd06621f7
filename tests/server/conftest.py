"""A real server with the shipped model on a free loopback port, and clients for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

import one_peace
from one_peace.search.library import Library
from one_peace.server.running import configuration
from one_peace.server.service import Service
from one_peace.server.settings import MIB, Limits, Settings
from server import hostile

LIMITS = Limits(
    request_bytes=MIB,
    upload_bytes=2 * MIB,
    upload_files=4,
    inputs=16,
    text_characters=2_000,
    pixels=1_000_000,
    sound_seconds=60,
    decode_seconds=60,  # of a machine that is busy with other tests
    request_seconds=180,
    idle_seconds=5,  # a busy machine may keep a client from its next byte for a while
)
COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0), "black": (0, 0, 0)}


@dataclass
class Running:
    """A server, what is behind it, and a client."""

    url: str
    service: Service
    folder: Path
    client: httpx.Client

    def search(self, *parts: tuple[str, str, float], **more: Any) -> list[dict[str, Any]]:
        """Answers to a query of (modality, source, weight)."""
        named = [{"modality": m, "source": s, "weight": w} for m, s, w in parts]
        answer = self.client.post("/v1/search", json={"parts": named, **more})
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        return results


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Serves on a free port until the end of the block; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(configuration(service))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def colored_square(color: tuple[int, int, int]) -> Image.Image:
    """What the shipped model tells apart by the name of its color."""
    picture = Image.new("RGB", (96, 96), "white")
    picture.paste(color, (16, 16, 81, 81))
    return picture


@pytest.fixture(scope="session")
def model() -> one_peace.OnePeace:
    return one_peace.from_pretrained("one-peace-nano")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, model: one_peace.OnePeace) -> Path:
    """An indexed folder: squares in several colors, two sounds and a text."""
    top = tmp_path_factory.mktemp("media")
    (top / "shapes").mkdir()
    for name, color in COLORS.items():
        colored_square(color).save(top / "shapes" / f"{name}.png")
    (top / "tone.wav").write_bytes(hostile.sound(440, 1.0))
    (top / "whistle.wav").write_bytes(hostile.sound(3000, 1.0))
    (top / "note.txt").write_text("A short note about boats.", encoding="utf-8")
    (top.parent / "secret.txt").write_text("nobody is to read this", encoding="utf-8")
    Library(top / ".one-peace", model).index(top, progress=False)
    return top


@pytest.fixture(scope="session")
def server(folder: Path, model: one_peace.OnePeace) -> Iterator[Running]:
    service = Service(model, folder / ".one-peace", Settings(limits=LIMITS, decoders=1))
    with running(service) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield Running(url, service, folder, client)
