"""What strangers try: other people's files and addresses, bombs, disguises, broken requests, guessed keys."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import one_peace
from one_peace.errors import InputError
from one_peace.media.signatures import file_type
from one_peace.server.guards import PAGE_POLICY
from one_peace.server.service import Service
from one_peace.server.settings import Settings, is_loopback
from one_peace.server.sniffing import refuse_disguise
from server import hostile
from server.conftest import LIMITS, Running, running

KEY = "a-key-of-sufficient-length"


def encode(server: Running, modality: str, source: str) -> httpx.Response:
    return server.client.post("/v1/encode", json={"inputs": [{"modality": modality, "source": source}]})


def in_url(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def raw(server: Running, request: bytes, wait: float = 10) -> bytes:
    """What the server answers to these very bytes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# The server's disk and network


@pytest.mark.parametrize("modality", ["image", "audio"])
@pytest.mark.parametrize(
    "source",
    ["/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "../../secret.txt", "concat:/etc/passwd", "ftp://x/y"],
)
def test_no_file_of_the_server_is_opened(server: Running, modality: str, source: str) -> None:
    answer = encode(server, modality, source)
    assert answer.status_code == 422 and "no data: URL" in answer.json()["error"]["message"]
    assert "root:" not in answer.text
    search = server.client.post("/v1/search", json={"parts": [{"modality": modality, "source": source}]})
    assert search.status_code == 422 and "no data: URL" in search.json()["error"]["message"]


def test_no_address_is_called(server: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/cow.png"
        assert encode(server, "image", url).status_code == 422
        part = {"type": "image_url", "image_url": {"url": url}}
        openai = server.client.post("/v1/embeddings", json={"model": "one-peace-nano", "input": [part]})
        assert openai.status_code == 422
        playlist = f"#EXTM3U\n#EXTINF:1,\n{url}\n".encode()
        for data in (playlist, b"<svg xmlns='http://www.w3.org/2000/svg'><image href='%s'/></svg>" % url.encode()):
            assert encode(server, "audio", in_url(data)).status_code == 422
            assert encode(server, "image", in_url(data)).status_code == 422
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/%2e%2e/errors.py",
        "/page//etc/passwd",
        "/page/..\\..\\errors.py",
        "/v1/items/..%2f..%2fsecret.txt/media",
        "/v1/items/%2fetc%2fpasswd/media",
        "/v1/items/%00/media",
        "/.one-peace/library.json",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out(server: Running, path: str) -> None:
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 (404|422)", answer), answer[:200]
    assert b"root:" not in answer and b"nobody is to read" not in answer and b"import" not in answer


def test_an_upload_stays_in_its_folder(server: Running) -> None:
    before = {path for path in server.folder.parent.rglob("*") if "uploads" not in path.parts}
    names = ("../../../evil.txt", "/etc/evil.txt", "..\\..\\evil.txt", ".one-peace", "con\x00trol.txt", "x" * 500)
    for number, name in enumerate(names):
        files = [("files", (name, f"a harmless text, number {number}".encode()))]
        answer = server.client.post("/v1/items", files=files)
        if answer.status_code == 201:
            (item,) = answer.json()["items"]
            kept = server.service.library.content(item["id"])
            assert server.service.uploads.holds(kept) and not kept.name.startswith(".") and len(kept.name) < 100
            server.client.delete(f"/v1/items/{item['id']}")
    after = {path for path in server.folder.parent.rglob("*") if "uploads" not in path.parts}
    assert {path for path in after - before if ".one-peace" not in path.parts} == set()


# Files


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bomb.png", hostile.png_of_size(30_000, 30_000)),
        ("zip.png", hostile.picture_and_zip()),
        ("page.gif", hostile.picture_and_page()),
        ("script.gif", hostile.script_as_gif()),
        ("drawing.svg", hostile.svg_with_entity()),
        ("page.html", b"<!doctype html><script>alert(1)</script>"),
        ("program.exe", b"MZ\x90\x00" + bytes(200)),
        ("silence.flac", hostile.silent_flac(300)),
        ("cut.png", hostile.picture()[:60]),
        ("empty.png", b""),
        ("model.pkl", b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
    ],
)
def test_a_hostile_upload_leaves_nothing(server: Running, name: str, data: bytes) -> None:
    items = len(server.service.library)
    answer = server.client.post("/v1/items", files=[("files", (name, data, "image/png"))])
    if answer.status_code == 201:  # as what it is, a harmless text: shown as one, never run
        (item,) = answer.json()["items"]
        shown = server.client.get(item["media"])
        assert item["modality"] == "text" and shown.headers["content-type"] == "text/plain; charset=utf-8"
        assert "sandbox" in shown.headers["content-security-policy"]
        assert shown.headers["x-content-type-options"] == "nosniff"
        server.client.delete(f"/v1/items/{item['id']}")
    else:
        assert answer.status_code == 422, answer.text
    assert len(server.service.library) == items
    assert not [path for path in server.service.uploads.folder.rglob("*") if path.is_file()]


def test_bombs_in_data_urls(server: Running) -> None:
    assert "pixels" in encode(server, "image", in_url(hostile.png_of_size(40_000, 40_000))).text
    assert "beyond the 60 s" in encode(server, "audio", in_url(hostile.silent_flac(3600))).text
    for broken in ("data:image/png;base64,@@@@", "data:image/png;base64", "data:,", "data:image/png;base64,"):
        assert encode(server, "image", broken).status_code == 422


def test_types_go_by_contents() -> None:
    text, picture = file_type(b"BMW makes cars"), file_type(b"GIF89a" + bytes(10))
    assert text is not None and text.family == "text" and picture is not None and picture.mime == "image/gif"
    assert file_type(b"\x00\x01\x02") is None
    films = [file_type(b"\x1a\x45\xdf\xa3\x93\x42\x82\x88" + kind) for kind in (b"webm", b"matroska")]
    assert [film and film.mime for film in films] == ["video/webm", "video/x-matroska"]
    refuse_disguise(hostile.picture() + b"a phone's own trailer")
    with pytest.raises(InputError, match="zip"):
        refuse_disguise(hostile.picture_and_zip())


# Requests


def test_bodies_over_the_limit(server: Running) -> None:
    big = b"x" * (LIMITS.request_bytes + 1)
    assert server.client.post("/v1/encode/image", content=big).status_code == 413

    def pieces() -> Iterator[bytes]:  # of no stated length
        for _ in range(40):
            yield b"x" * 65536

    assert server.client.post("/v1/encode/image", content=pieces()).status_code == 413
    upload = b"x" * (LIMITS.upload_bytes + 1)
    assert server.client.post("/v1/items", files=[("files", ("x.png", upload))]).status_code == 413
    many = [("files", (f"{i}.txt", b"text")) for i in range(LIMITS.upload_files + 1)]
    assert server.client.post("/v1/items", files=many).status_code == 413


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=files"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nabc\r\n--x--'),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="caption"\r\n\r\nc\r\n' * 3000,
        ),
        ("application/json", b'{"files": []}'),
    ],
)
def test_malformed_uploads(server: Running, kind: str, body: bytes) -> None:
    answer = server.client.post("/v1/items", content=body, headers={"content-type": kind})
    assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"parts":' * 5000, b"NaN"])
def test_malformed_json(server: Running, body: bytes) -> None:
    answer = server.client.post("/v1/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]["message"]


def test_a_body_that_does_not_come(server: Running) -> None:
    request = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    started = time.monotonic()
    answer = raw(server, request, wait=60)
    assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - started >= LIMITS.idle_seconds


def test_errors_tell_nothing_of_the_inside(server: Running) -> None:
    get = server.client.get
    for answer in (encode(server, "image", in_url(b"junk")), get("/nothing"), get("/v1/search")):
        body = answer.json()["error"]
        assert set(body) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer.text and "site-packages" not in answer.text and "/src/" not in answer.text


# Visitors' browsers


def test_security_headers(server: Running) -> None:
    page = server.client.get("/")
    assert page.headers["content-security-policy"] == PAGE_POLICY and "unsafe" not in PAGE_POLICY
    for answer in (page, server.client.get("/v1/about"), server.client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY" and "server" not in answer.headers
    assert not re.search(rb"<script(?![^>]*\ssrc=)|\son\w+=|style=|https?://", page.content)  # what the policy forbids


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},  # a name that leads here, bought by an attacker
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_other_web_sites_are_refused(server: Running, headers: dict[str, str]) -> None:
    answer = server.client.get("/v1/items", headers=headers)
    assert answer.status_code == 403 and "items" not in answer.json()


def test_own_page_is_not(server: Running) -> None:
    headers = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert server.client.get("/v1/about", headers=headers).status_code == 200


# Keys


@pytest.fixture(scope="module")
def guarded(folder: Path, model: one_peace.OnePeace) -> Iterator[httpx.Client]:
    settings = Settings(keys=("another-long-enough-key", KEY), read_only=True, decoders=1)
    service = Service(model, folder / ".one-peace", settings)
    with running(service) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/about", "/v1/items/x/media", "/v1/map", "/metrics", "/openapi.json"])
def test_without_a_key_there_is_nothing(guarded: httpx.Client, path: str) -> None:
    for headers in ({}, {"authorization": f"Bearer {KEY}x"}, {"authorization": KEY}, {"cookie": "one-peace-session=x"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get(path, headers={"authorization": f"Bearer {KEY}"}).status_code in (200, 404)
    assert guarded.get(path, headers={"x-api-key": KEY}).status_code in (200, 404)


def test_the_page_and_health_need_none(guarded: httpx.Client) -> None:
    assert guarded.get("/").status_code == guarded.get("/health").status_code == 200


def test_a_session_stands_for_a_key(guarded: httpx.Client) -> None:
    assert guarded.post("/v1/session", json={"key": "wrong"}).status_code == 401
    opened = guarded.post("/v1/session", json={"key": KEY})
    cookie = opened.headers["set-cookie"].lower()
    assert opened.status_code == 204 and "httponly" in cookie and "samesite=strict" in cookie and KEY not in cookie
    assert guarded.get("/v1/about").status_code == 200
    token = guarded.cookies["one-peace-session"]
    guarded.delete("/v1/session")
    assert guarded.get("/v1/about", headers={"cookie": f"one-peace-session={token}"}).status_code == 401


def test_read_only(guarded: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = guarded.post("/v1/items", files=[("files", ("x.txt", b"text"))], headers=headers)
    assert answer.status_code == 403 and guarded.delete("/v1/items/x", headers=headers).status_code == 403


def test_no_address_for_others_without_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ValueError, match="API keys"):
            Settings(host=host)
        assert Settings(host=host, keys=(KEY,)).host == host
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost")))
    with pytest.raises(ValueError, match="not safe"):
        Settings(keys=("short",))


# Everything that the OpenAPI document allows, and what it forbids


def test_fuzzing_by_the_schema(server: Running) -> None:
    """Generated requests to each operation get answers that the document names, and never a 5xx."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(json.loads(server.client.get("/openapi.json").content))
    schema.config.update(base_url=server.url)
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/items" and operation.method.lower() == "post":
            continue  # has tests of its own above; here it would fill the library

        @settings(max_examples=6, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            answer = case.call(timeout=60)
            case.validate_response(answer, checks=checks)

        attack()
