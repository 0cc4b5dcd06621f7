"""Describing pictures of the library and finding things in them: a random OFA model behind the real service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import one_peace
from one_peace.errors import InputError
from one_peace.server.service import Service
from one_peace.server.settings import Settings
from one_peace.server.writing_model import WAITING, WritingModel
from server.conftest import LIMITS, Running, running
from tiny_ofa import tiny_ofa


@pytest.fixture(scope="module")
def writes(folder: Path, model: one_peace.OnePeace) -> Iterator[Running]:
    service = Service(model, folder / ".one-peace", Settings(limits=LIMITS, decoders=1), ofa=tiny_ofa())
    with running(service) as url, httpx.Client(base_url=url, timeout=120) as client:
        yield Running(url, service, folder, client)


def id_of(server: Running, name: str) -> str:
    items = server.client.get("/v1/items").json()["items"]
    return next(str(item["id"]) for item in items if item["name"] == name)


def test_a_picture_is_described_and_searched(writes: Running, folder: Path) -> None:
    about = writes.client.get("/v1/about").json()
    assert about["describes"] == "tiny"
    red = id_of(writes, "red.png")
    answer = writes.client.post(f"/v1/items/{red}/describe")
    assert answer.status_code == 200 and answer.json()["model"] == "tiny"
    assert answer.json()["caption"] == tiny_ofa().caption(folder / "shapes" / "red.png")
    found = writes.client.post(f"/v1/items/{red}/locate", json={"phrase": "a red square"}).json()
    assert found["phrase"] == "a red square" and len(found["box"]) == 4
    expected = tiny_ofa().locate(folder / "shapes" / "red.png", "a red square")
    assert found["box"] == pytest.approx([round(side, 1) for side in expected])


def test_what_cannot_be_described_is_told(writes: Running) -> None:
    tone = id_of(writes, "tone.wav")
    answer = writes.client.post(f"/v1/items/{tone}/describe")
    assert answer.status_code == 422 and "pictures alone" in answer.json()["error"]["message"]
    assert writes.client.post("/v1/items/nothing/describe").status_code == 404
    red = id_of(writes, "red.png")
    for body in ({}, {"phrase": ""}, {"phrase": "  "}, {"phrase": "x" * 501}, {"phrase": "a", "more": 1}):
        assert writes.client.post(f"/v1/items/{red}/locate", json=body).status_code == 422, body


def test_a_file_that_has_changed_is_not_described(writes: Running, folder: Path) -> None:
    black, path = id_of(writes, "black.png"), folder / "shapes" / "black.png"
    contents, status = path.read_bytes(), path.stat()
    try:
        path.write_bytes(b"something else")
        assert writes.client.post(f"/v1/items/{black}/describe").status_code == 410
    finally:
        path.write_bytes(contents)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as it was indexed


def test_without_a_model_there_is_no_description(server: Running) -> None:
    assert server.client.get("/v1/about").json()["describes"] is None
    answer = server.client.post(f"/v1/items/{id_of(server, 'red.png')}/describe")
    assert answer.status_code == 404 and "--ofa" in answer.json()["error"]["message"]


def test_too_many_wait_no_longer_than_promised(folder: Path) -> None:
    from one_peace.server.batcher import OverloadedError

    model = WritingModel(tiny_ofa())
    picture = folder / "shapes" / "red.png"
    waiting = [model.describe(picture) for _ in range(WAITING)]
    with pytest.raises(OverloadedError):
        for _ in range(WAITING):
            waiting.append(model.describe(picture))
    assert len({future.result() for future in waiting}) == 1
    with pytest.raises(InputError):
        model.describe(folder / "note.txt").result()
    model.close()
