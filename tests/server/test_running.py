"""The service as a process: it starts, is stopped, is killed, and keeps what it promised."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

import one_peace
from one_peace.cli.main import app
from one_peace.cli.serve import read_keys
from one_peace.errors import InputError
from one_peace.search.file_kinds import KINDS
from one_peace.search.library import Library
from one_peace.search.stores.base import failure
from one_peace.server.connections import YieldingConnection, most_connections
from one_peace.server.service import Service
from one_peace.server.settings import Settings
from one_peace.server.uploads import Uploads
from server import hostile
from server.conftest import LIMITS, running


@contextmanager
def process(library: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`one-peace serve` on a free port, and its address once it says that."""
    command = [sys.executable, "-m", "one_peace.cli.main", "serve", str(library), "--port", "0"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert started.stdout is not None
        found = re.search(r"http://\S+", started.stdout.readline())
        assert found, "the service did not start"
        yield started, found[0]
    finally:
        started.kill()
        started.wait()


def _accepted(metrics: str) -> float:
    """Texts that the model has encoded, or that wait for it."""
    names = 'one_peace_batch_inputs_sum{modality="text"}', 'one_peace_waiting_inputs{modality="text"}'
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(names))


def test_acknowledged_items_survive_a_kill_and_a_stop_finishes_what_was_accepted(
    tmp_path: Path, model: one_peace.OnePeace
) -> None:
    (tmp_path / "first.txt").write_text("the first text", encoding="utf-8")
    Library(tmp_path / ".one-peace", model).index(tmp_path, progress=False)
    acknowledged: list[str] = []

    with process(tmp_path) as (started, url), httpx.Client(base_url=url, timeout=120) as client:

        def add() -> None:
            for number in range(1000):
                files = [("files", (f"{number}.txt", f"text number {number}".encode()))]
                try:
                    answer = client.post("/v1/items", files=files)
                except httpx.TransportError:
                    return
                acknowledged.append(answer.json()["items"][0]["id"])

        thread = threading.Thread(target=add)
        thread.start()
        while len(acknowledged) < 5:
            time.sleep(0.01)
        started.send_signal(signal.SIGKILL)
        thread.join()
    assert len(acknowledged) >= 5

    with process(tmp_path) as (started, url), httpx.Client(base_url=url, timeout=120) as client:
        for id in acknowledged:
            assert client.get(f"/v1/items/{id}").status_code == 200
            assert client.get(f"/v1/items/{id}/media").text.startswith("text number")
        statuses: list[int] = []
        inputs = {"inputs": [{"modality": "text", "source": f"words {i} and more of them"} for i in range(40)]}

        def encode() -> None:
            statuses.append(httpx.post(f"{url}/v1/encode", json=inputs, timeout=120).status_code)

        threads = [threading.Thread(target=encode) for _ in range(3)]
        for thread in threads:
            thread.start()
        while _accepted(client.get("/metrics").text) <= 80:  # of the third request, too
            time.sleep(0.01)
        client.close()
        started.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert statuses == [200, 200, 200]
        assert started.wait(60) in (0, -signal.SIGTERM)


def test_too_much_is_refused_with_429(folder: Path, model: one_peace.OnePeace) -> None:
    service = Service(model, folder / ".one-peace", Settings(limits=replace(LIMITS, in_flight=1), decoders=1))
    body = {"inputs": [{"modality": "text", "source": "a cow"}]}
    with running(service) as url:
        busy, go = threading.Event(), threading.Event()
        embed = service.encoder.batcher._embed
        service.encoder.batcher._embed = lambda name, examples: (busy.set(), go.wait(), embed(name, examples))[2]
        statuses: list[int] = []
        waiting = threading.Thread(
            target=lambda: statuses.append(httpx.post(f"{url}/v1/encode", json=body, timeout=180).status_code)
        )
        waiting.start()
        assert busy.wait(60)
        refused = httpx.post(f"{url}/v1/encode", json=body, timeout=60)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200  # still to be seen
        go.set()
        waiting.join()
        assert statuses == [200]
        assert httpx.post(f"{url}/v1/encode", json=body, timeout=60).status_code == 200


def test_connections_that_ask_for_nothing_give_way(folder: Path, model: one_peace.OnePeace) -> None:
    limits = replace(LIMITS, in_flight=2, idle_seconds=60)
    service = Service(model, folder / ".one-peace", Settings(limits=limits, decoders=1))
    with running(service) as url, ExitStack() as opened:
        host, port = url.removeprefix("http://").split(":")

        def connect(sent: bytes) -> socket.socket:
            connection = opened.enter_context(socket.create_connection((host, int(port)), timeout=60))
            connection.sendall(sent)
            return connection

        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 12"
        slow = connect(f"POST /v1/session HTTP/1.1\r\n{head}\r\n\r\n{{".encode())
        for _ in range(6):  # of 8 connections that there may be
            connect(b"")
            connect(b"GET /health HT")
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        slow.sendall(b'"key": "x"}')
        assert slow.recv(1000).startswith(b"HTTP/1.1 204")


def test_an_answer_that_nobody_reads_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("one_peace.server.connections.UNREAD", 0.1)
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(512):  # more than the system's own buffers hold
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body"})
        ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(endless, http=YieldingConnection, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert ended.wait(30)
        server.should_exit = True
        thread.join()


def test_connections_leave_room_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for open_files, expected in ((1024, 512), (65536, 1000), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=open_files: (soft, soft))
        assert most_connections(1000) == expected


def test_what_takes_too_long_ends(folder: Path, model: one_peace.OnePeace) -> None:
    service = Service(model, folder / ".one-peace", Settings(limits=replace(LIMITS, request_seconds=0.5), decoders=1))
    service.encoder._seconds = 60  # of the first text, before requests are answered
    with running(service) as url:
        go = threading.Event()
        embed = service.encoder.batcher._embed
        service.encoder.batcher._embed = lambda name, examples: (go.wait(60), embed(name, examples))[1]
        body = {"inputs": [{"modality": "text", "source": "a cow"}]}
        answer = httpx.post(f"{url}/v1/encode", json=body, timeout=60)
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timed_out"
        go.set()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_file_whose_upload_was_cut_off_stays_with_its_item_alone(
    tmp_path: Path, model: one_peace.OnePeace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(limits=replace(LIMITS, upload_seconds=3), decoders=1)
    service = Service(model, tmp_path / "library", settings)
    add, writing, ended = service.library.add, threading.Event(), threading.Event()

    def slow(*files: Any, **options: Any) -> Any:
        writing.set()
        ended.wait(60)
        return add(*files, **options)

    monkeypatch.setattr(service.library, "add", slow)
    with running(service) as url, httpx.Client(base_url=url, timeout=60) as client:

        def upload(name: str) -> int:
            return client.post("/v1/items", files=[("files", (name, name.encode()))]).status_code

        first = threading.Thread(target=upload, args=("written.txt",))
        first.start()
        assert writing.wait(60) and upload("waits.txt") == 504
        first.join()
        ended.set()
    assert [item.path.name for item in service.library.items()] == ["written.txt"]
    assert [path.name for path in service.uploads.folder.rglob("*.txt")] == ["written.txt"]


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, folder: Path, model: one_peace.OnePeace, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(model, folder / ".one-peace", Settings(limits=LIMITS, decoders=1))
    fdopen = os.fdopen

    def full(descriptor: int, mode: str) -> object:
        os.close(descriptor)
        return fdopen(os.open("/dev/full", os.O_WRONLY), mode)

    with running(service) as url:
        monkeypatch.setattr("one_peace.server.uploads.os.fdopen", full)
        answer = httpx.post(f"{url}/v1/items", files=[("files", ("x.txt", b"a text"))], timeout=60)
        assert answer.status_code == 507 and answer.json()["error"]["code"] == "disk_full"
        monkeypatch.undo()

        def no_room(*_: object, **__: object) -> None:  # what LanceDB says of it
            raise failure("vectors", RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)"))

        monkeypatch.setattr(service.library, "add", no_room)
        answer = httpx.post(f"{url}/v1/items", files=[("files", ("x.txt", b"a text"))], timeout=60)
        assert answer.status_code == 507
    assert not [path for path in service.uploads.folder.rglob("*") if path.is_file()]


def test_a_read_only_service_leaves_the_disk_alone(tmp_path: Path, model: one_peace.OnePeace) -> None:
    (tmp_path / "first.txt").write_text("the first text", encoding="utf-8")
    Library(tmp_path / ".one-peace", model).index(tmp_path, progress=False)
    before = sorted(tmp_path.rglob("*"))
    service = Service(model, tmp_path / ".one-peace", Settings(read_only=True, decoders=1))
    try:
        assert service.catalogue.statistics() == {"text": 1} and sorted(tmp_path.rglob("*")) == before
    finally:
        service.close()


def test_a_library_that_takes_no_uploads_is_told_how_to_be_served(tmp_path: Path) -> None:
    (tmp_path / "uploads").touch()
    with pytest.raises(OSError, match="uploads cannot be made .* --read-only"):
        Uploads(tmp_path, KINDS).prepare()


def test_uploads_of_registered_modalities_are_known_by_their_names(tmp_path: Path) -> None:
    own = {"cloud": replace(KINDS["text"], endings=".xyz"), "depth": replace(KINDS["image"], endings=".depth.png")}
    uploads = Uploads(tmp_path, {**KINDS, **own})
    uploads.prepare()
    path, kind = uploads.keep(io.BytesIO(b"1.0 2.0 3.0\n" * 20), "a Cloud.XYZ")
    assert (path.name, kind) == ("a Cloud.xyz", "cloud"), "a text is a file of theirs too"
    path, kind = uploads.keep(io.BytesIO(hostile.picture()), "room.depth.png")
    assert (path.name, kind) == ("room.depth.png", "depth")
    for name in ("a.xyz", "b.depth.jpg.xyz"):
        with pytest.raises(InputError, match="named like cloud and holds image"):
            uploads.keep(io.BytesIO(hostile.picture()), name)
    with pytest.raises(InputError, match="named like depth and holds audio"):
        uploads.keep(io.BytesIO(hostile.sound()), "song.depth.png")


def test_uploads_keep_equal_contents_once_and_sweep_what_a_kill_left(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, KINDS)
    uploads.prepare()
    (uploads.folder / "left.part").write_bytes(b"half")
    uploads.prepare()
    assert not list(uploads.folder.iterdir())
    first, kind = uploads.keep(io.BytesIO(hostile.picture()), "A photo.PNG")
    assert (first.name, kind) == ("A photo.png", "image")
    for name in ("again.png", "disguised.exe", "no ending", "../.."):
        assert uploads.keep(io.BytesIO(hostile.picture()), name) == (first, "image")
        uploads.release(first, indexed=False)
    assert first.exists()  # the first one holds it still
    with pytest.raises(InputError, match="named like audio and holds image"):
        uploads.keep(io.BytesIO(hostile.picture()), "song.wav")
    outside = tmp_path / "outside.png"
    outside.write_bytes(hostile.picture())
    uploads.drop(outside)
    uploads.drop(first)
    assert outside.exists() and first.exists()
    uploads.release(first, indexed=True)
    uploads.keep(io.BytesIO(hostile.picture()), "the same once more.png")
    uploads.release(first, indexed=False)
    assert first.exists()  # it is an item's
    uploads.drop(first)
    assert not first.exists()
    second, _ = uploads.keep(io.BytesIO(hostile.picture()), "x.png")
    uploads.release(second, indexed=False)
    assert not second.exists()


def test_what_else_lies_beside_an_upload_is_not_taken_for_it(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, KINDS)
    uploads.prepare()
    first, _ = uploads.keep(io.BytesIO(hostile.picture()), "photo.png")
    uploads.release(first, indexed=True)
    for name in ("photo.txt", ".hidden", "0"):
        first.with_name(name).write_text("A caption.")
    first.write_bytes(hostile.picture()[:50])  # by a failing disk
    assert uploads.keep(io.BytesIO(hostile.picture()), "photo.png") == (first, "image")
    assert first.read_bytes() == hostile.picture()
    uploads.release(first, indexed=True)
    assert uploads.keep(io.BytesIO(hostile.picture()), "again.png") == (first, "image")


def test_command_line(tmp_path: Path) -> None:
    def call(*words: object) -> str:
        result = CliRunner().invoke(app, ["serve", *map(str, words)])
        assert result.exit_code == 1
        return result.output

    assert "one-peace index" in call(tmp_path)
    assert "API keys" in call(tmp_path, "--host", "0.0.0.0")
    keys = tmp_path / "keys"
    keys.write_text("# for the office\nabcdefghijklmnop-1\n\nabcdefghijklmnop-2  # Anna\n", encoding="utf-8-sig")
    assert read_keys(keys) == ("abcdefghijklmnop-1", "abcdefghijklmnop-2")
    keys.write_text("# none yet\n", encoding="utf-8")
    assert "no API key" in call(tmp_path, "--api-keys", keys)
    keys.write_bytes("# für das Büro".encode("latin-1"))
    assert f"{keys}: is not UTF-8" in call(tmp_path, "--api-keys", keys)
