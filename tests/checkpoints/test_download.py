from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loopback import running
from one_peace import cache
from one_peace.checkpoints import download as module
from one_peace.checkpoints import registry
from one_peace.checkpoints.download import ATTEMPTS, download
from one_peace.errors import DownloadError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Host(http.server.ThreadingHTTPServer):
    """A loopback server with the faults that real ones have; `requests` lists the Range headers it saw."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"one"'
        self.status = 200  # of answers with the whole file
        self.ranges = True
        self.checks_version = True  # looks at If-Range
        self.headers: dict[str, str | None] = {}  # further ones; None for one to leave out
        self.cut_after: int | None = None  # bytes of each answer before the connection closes
        self.statuses: list[int] = []  # answers to give before serving
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        host = self.server
        asked = self.headers.get("Range")
        host.requests.append(asked)
        if host.statuses:
            self.send_error(host.statuses.pop(0))
            return
        start = 0
        if asked and host.ranges and (not host.checks_version or self.headers.get("If-Range") == host.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(host.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(host.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            self.send_response(host.status)
        body = host.content[start:]
        headers: dict[str, str | None] = {"Content-Length": str(len(body)), "ETag": host.etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(host.content) - 1}/{len(host.content)}"
        for name, value in (headers | host.headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: host.cut_after])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    with running(Host()) as host:
        yield host


def fetch(host: Host, target: Path, sha256: str | None = SHA256) -> Path:
    return download(host.url, target, sha256, sleep=lambda seconds: None)


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"model.pt", "model.pt.lock"}


def test_plain(host: Host, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = download(host.url, tmp_path / "a" / "model.pt", SHA256, progress=lambda *p: seen.append(p))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not leftovers(target.parent)
    host.content = b"changed"
    assert fetch(host, target).read_bytes() == CONTENT, "a file that is there is not fetched again"


def test_cut_connection_is_resumed(host: Host, tmp_path: Path) -> None:
    host.cut_after = 300_000
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT
    assert host.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_official_name_over_a_cut_connection(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(registry.URL_VARIABLE, host.url.rpartition("/")[0])
    host.cut_after = 600_000
    path = registry.resolve("ONE-PEACE")
    assert path == tmp_path / "cache" / "one-peace.pt" and path.read_bytes() == CONTENT
    assert host.requests[-2:] == [None, "bytes=600000-"]


def test_resumed_in_a_later_call(host: Host, tmp_path: Path) -> None:
    host.cut_after = 1000
    with pytest.raises(DownloadError, match="not enough"):
        download(host.url, tmp_path / "model.pt", sleep=Stop("not enough", after=2))
    host.cut_after = None
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT
    assert host.requests[-1] == "bytes=3000-"


class Stop:
    """A `sleep` that ends the call, as a user's interrupt would."""

    def __init__(self, message: str, after: int) -> None:
        self.message, self.left = message, after

    def __call__(self, seconds: float) -> None:
        if not self.left:
            raise DownloadError(self.message)
        self.left -= 1


def test_file_replaced_between_calls(host: Host, tmp_path: Path) -> None:
    host.cut_after = 1000
    with pytest.raises(DownloadError):
        download(host.url, tmp_path / "model.pt", sleep=Stop("", after=0))
    host.cut_after, host.etag, host.content = None, '"two"', CONTENT[::-1]
    assert fetch(host, tmp_path / "model.pt", None).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("changed", ["version", "size", "place", "no place"])
def test_rest_of_another_file_is_not_taken(host: Host, tmp_path: Path, changed: str) -> None:
    """A server that sends a part of whatever it has now: the file is fetched again from its start."""
    host.cut_after, host.checks_version = 1000, False
    with pytest.raises(DownloadError):
        download(host.url, tmp_path / "model.pt", sleep=Stop("", after=0))
    host.cut_after, host.content = None, CONTENT[::-1]
    if changed == "version":
        host.etag = '"two"'
    elif changed == "size":
        host.content, host.headers = host.content[5:], {"ETag": None}
    else:
        wrong = None if changed == "no place" else f"bytes 999-{len(CONTENT) - 1}/{len(CONTENT)}"
        host.headers = {"Content-Range": wrong}
    assert fetch(host, tmp_path / "model.pt", None).read_bytes() == host.content
    assert host.requests == [None, "bytes=1000-", None]


def test_a_file_that_never_continues_is_given_up(host: Host, tmp_path: Path) -> None:
    host.cut_after, host.checks_version, host.headers = 1000, False, {"Content-Range": None}
    with pytest.raises(DownloadError, match="gave up"):
        fetch(host, tmp_path / "model.pt")


@pytest.mark.parametrize("fault", ["empty", "packed", "part"])
def test_answers_that_are_no_file(host: Host, tmp_path: Path, fault: str) -> None:
    if fault == "empty":
        host.content = b""
    else:
        host.headers = {"Content-Encoding": "gzip"} if fault == "packed" else {}
        host.status = 206 if fault == "part" else 200
    with pytest.raises(DownloadError, match={"empty": "empty file", "packed": "as gzip", "part": "a part of"}[fault]):
        fetch(host, tmp_path / "model.pt", None)
    assert not (tmp_path / "model.pt").exists()


def test_server_without_ranges(host: Host, tmp_path: Path) -> None:
    host.ranges, host.cut_after = False, 300_000
    with pytest.raises(DownloadError, match=f"gave up after {ATTEMPTS}"):
        fetch(host, tmp_path / "model.pt")
    host.cut_after = None
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT


def test_complete_part_left_behind(host: Host, tmp_path: Path) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENT)
    (tmp_path / "model.pt.part.version").write_text(host.etag)
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT


def test_stale_part_is_fetched_again(host: Host, tmp_path: Path) -> None:
    (tmp_path / "model.pt.part").write_bytes(b"x" * 1000)
    (tmp_path / "model.pt.part.version").write_text(host.etag)
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT
    assert host.requests == ["bytes=1000-", None]


def test_wrong_content(host: Host, tmp_path: Path) -> None:
    host.content = b"not the model"
    with pytest.raises(DownloadError, match=f"sha256 is [0-9a-f]+ and should be {SHA256}"):
        fetch(host, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    assert not leftovers(tmp_path)


def test_statuses(host: Host, tmp_path: Path) -> None:
    host.statuses = [503, 429, 500]
    assert fetch(host, tmp_path / "model.pt").read_bytes() == CONTENT
    host.statuses = [404]
    with pytest.raises(DownloadError, match="404"):
        fetch(host, tmp_path / "other.pt")
    assert len(host.requests) == 5, "what is not there is not asked for again"


def test_no_host(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="pass its path, or put it at .*model.pt"):
        download("http://127.0.0.1:9/model.pt", tmp_path / "model.pt", sleep=lambda seconds: None)
    with pytest.raises(DownloadError, match="known schemes"):
        download("ftp://127.0.0.1/model.pt", tmp_path / "model.pt")


def test_file_address(tmp_path: Path) -> None:
    source = tmp_path / "source.pt"
    source.write_bytes(CONTENT)
    assert download(source.as_uri(), tmp_path / "model.pt", SHA256).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="no such file"):
        download((tmp_path / "absent.pt").as_uri(), tmp_path / "b.pt", sleep=lambda seconds: None)


def test_unwritable_target(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="ONE_PEACE_CACHE"):
        fetch(host, tmp_path / "file" / "model.pt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Part, "start", lambda self, *kept: self.path.symlink_to("/dev/full"))
    with pytest.raises(DownloadError, match="free some space"):
        fetch(host, tmp_path / "model.pt")


def test_too_large_for_the_disk(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="GB to come"):
        fetch(host, tmp_path / "model.pt")


def test_threads_share_one_transfer(host: Host, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(host, tmp_path / "model.pt"), range(8)))
    assert all(p.read_bytes() == CONTENT for p in paths)
    assert len(host.requests) == 1


def test_processes_share_one_transfer(host: Host, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from one_peace.checkpoints.download import download;"
        "download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    )
    arguments = [sys.executable, "-c", code, host.url, str(tmp_path / "model.pt"), SHA256]
    workers = [subprocess.Popen(arguments) for _ in range(2)]
    assert [worker.wait(180) for worker in workers] == [0, 0]
    assert len(host.requests) == 1
