"""Downloads that survive a cut connection: resumed, checked, and under their name only when whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from one_peace.errors import DownloadError

CHUNK = 1 << 20  # bytes
ATTEMPTS = 6  # in a row without a new byte
SCHEMES = ("https", "http", "file")

Progress = Callable[[int, int | None], None]
"""Called with the bytes at hand and the size of the whole file, None when the server does not tell it."""


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    *,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
    timeout: float = 30.0,
) -> Path:
    """Fetches `url` (http, https, file) to `target`, unless it is there already, and returns `target`.

    An interrupted download goes on where it stopped, in this call or the next one, from servers that can. Several
    processes may ask for the same file: one fetches it, the others wait. With `sha256` (hexadecimal) the content is
    checked before it gets its name. `timeout` is in seconds without a byte.

    Raises:
        DownloadError: host not reachable, file not there, wrong content, or no room to write it.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise DownloadError(f"{url}: not an address that can be downloaded; known schemes: {', '.join(SCHEMES)}")
    if target.exists():
        return target
    progress = progress or terminal_progress(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(target.name + ".lock")):
            if target.exists():  # another process fetched it while this one waited
                return target
            part = _Part(target)
            resumed = part.size > 0
            _fetch(url, part, progress, sleep, timeout)
            if sha256 is not None and resumed and part.sha256() != sha256.lower():
                part.discard()  # what an earlier call left may have been another version
                _fetch(url, part, progress, sleep, timeout)
            if sha256 is not None and (found := part.sha256()) != sha256.lower():
                part.discard()
                raise DownloadError(
                    f"{url}: wrong content, sha256 is {found} and should be {sha256.lower()}; try again"
                )
            part.finish()
    except OSError as error:
        raise DownloadError(f"{url}: cannot write {target}: {error.strerror or error}; {_advice(error)}") from error
    return target


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or set ONE_PEACE_CACHE to a folder with more"
    return "set ONE_PEACE_CACHE to a folder that you can write to"


class _Part:
    """The unfinished file beside the target, and what the server said of the file that it is part of."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.version_path = target.with_name(target.name + ".part.version")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str:
        return self._kept()[0]

    @property
    def total(self) -> int | None:
        return int(kept[1]) if len(kept := self._kept()) > 1 and kept[1].isdigit() else None

    def _kept(self) -> list[str]:
        return self.version_path.read_text(encoding="utf-8").split("\n") if self.version_path.exists() else [""]

    def start(self, version: str, total: int | None) -> None:
        """Empties the part, for a transfer from the beginning."""
        self.path.write_bytes(b"")
        self.version_path.write_text(f"{version}\n{'' if total is None else total}", encoding="utf-8")

    def sha256(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def finish(self) -> None:
        """Gives the file its name, once its bytes are safe."""
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)
        self.version_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.version_path.unlink(missing_ok=True)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Waits for the lock file `path`; the kernel frees it when its process ends, however it ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetch(url: str, part: _Part, progress: Progress, sleep: Callable[[float], None], timeout: float) -> None:
    """Fills the part, going on after cut connections; gives up after `ATTEMPTS` in a row without a new byte."""
    offline = f"without a network, fetch the file elsewhere and pass its path, or put it at {part.target}"
    failures, reached = 0, part.size
    while True:
        problem: object = "the connection was cut"
        try:
            if _transfer(url, part, progress, timeout):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise DownloadError(
                    f"{url}: the server answers {error.code} {error.reason}; check the address"
                ) from error
            problem = error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            problem = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(problem, FileNotFoundError | IsADirectoryError):
                raise DownloadError(f"{url}: no such file") from error
            if isinstance(problem, socket.gaierror):  # trying again would only make an offline user wait
                raise DownloadError(f"{url}: host not found or no network; {offline}") from error
        failures = 1 if part.size > reached else failures + 1
        reached = max(reached, part.size)  # a part that was begun anew has to come further than the one before
        if failures >= ATTEMPTS:
            raise DownloadError(
                f"{url}: gave up after {ATTEMPTS} attempts: {problem}. What has arrived is kept; {offline}"
            )
        sleep(min(30.0, 0.5 * 2**failures))


@dataclass(frozen=True)
class _Answer:
    """What a response says: where its first byte belongs, the size of the whole file, the file's version.

    `start` is None for a part of which the server does not say where it belongs.
    """

    start: int | None
    total: int | None
    version: str

    def continues(self, part: _Part) -> bool:
        """Whether its bytes are the next ones of the same file; some servers send those of a newer file."""
        same_version = not self.version or self.version == part.version
        same_size = None in (self.total, part.total) or self.total == part.total
        return self.start == part.size and same_version and same_size


def _transfer(url: str, part: _Part, progress: Progress, timeout: float) -> bool:
    """One request; True when the part is whole afterwards."""
    headers = {"User-Agent": "one-peace", "Accept-Encoding": "identity"}
    if part.size and part.version:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version}
    else:  # without its version, the rest could belong to another file
        part.discard()
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
        if whole and int(whole[1]) == part.size and _version(error.headers) in ("", part.version):
            return True
        part.discard()
        return False
    with response:
        answer = _read_answer(url, response)
        if answer.start == 0:
            part.start(answer.version, answer.total)
        elif "Range" not in headers:
            raise DownloadError(f"{url}: the server sent a part of the file, asked for all of it; use another address")
        elif not answer.continues(part):
            part.discard()  # the next request is for the whole file
            return False
        have = part.size
        if answer.total is not None:
            _check_room(part.path.parent, answer.total - have)
        with open(part.path, "ab", buffering=0) as file:
            while chunk := response.read(CHUNK) if url.startswith("file:") else response.read1(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, answer.total)
    if have == 0 and not answer.total:
        part.discard()
        raise DownloadError(f"{url}: the server sent an empty file; check the address")
    return answer.total is None or have == answer.total


def _read_answer(url: str, response: Any) -> _Answer:
    headers = response.headers
    if (coding := headers.get("Content-Encoding") or "identity") != "identity":
        raise DownloadError(
            f"{url}: the server sends the file as {coding}, which was not asked for; use another address"
        )
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
        if span is None:
            return _Answer(None, None, _version(headers))
        return _Answer(int(span[1]), None if span[2] == "*" else int(span[2]), _version(headers))
    length = headers.get("Content-Length")
    return _Answer(0, int(length) if length and length.isdigit() else None, _version(headers))


def _version(headers: Any) -> str:
    """The server's name for the version of a file, "" where it has none."""
    etag = headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(errno.ENOSPC, f"{wanted / 1e9:.1f} GB to come, {free / 1e9:.1f} GB free")


def terminal_progress(name: str) -> Progress:
    """A line on a terminal's standard error, rewritten once a second; nothing elsewhere."""
    shown = 0.0

    def show(have: int, total: int | None) -> None:
        nonlocal shown
        now = time.monotonic()
        if not sys.stderr.isatty() or (now - shown < 1 and have != total):
            return
        shown = now
        share = f" of {total / 1e6:.0f} MB ({have / total:.0%})" if total else " MB"
        print(
            f"\r{name}: {have / 1e6:.0f}{share}",
            end="\n" if have == total else "",
            file=sys.stderr,
            flush=True,
        )

    return show
