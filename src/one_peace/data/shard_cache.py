"""Shards at hand: local ones where they lie, remote ones fetched whole into a folder of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from one_peace.checkpoints.download import download
from one_peace.data.cache_files import built_once
from one_peace.data.source import UnusablePair
from one_peace.errors import DownloadError, InputError

REMOTE = ("http", "https")
RETRY_AFTER = 600.0  # seconds until a shard that could not be had is asked for again
LONGEST_PAUSE = 2.0  # seconds between attempts; a dead server is given up after about ten
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..002}.tar` -> `a-000.tar`, `a-001.tar`, `a-002.tar`; several ranges multiply.

    Raises:
        InputError: a range that runs backwards.
    """
    found = _RANGE.search(pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    if int(last) < int(first):
        raise InputError(pattern, f"its range {found[0]} runs backwards")
    width = len(first) if first.startswith("0") or len(first) == len(last) else 0
    names = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    rests = expand_braces(pattern[found.end() :])
    return [pattern[: found.start()] + name + rest for name in names for rest in rests]


def is_remote(url: str) -> bool:
    """Whether it has to be fetched over a network."""
    return urlsplit(url).scheme in REMOTE


@dataclass
class ShardCache:
    """Files by URL or path. Several processes may share a folder: each shard is fetched once.

    `max_bytes` bounds what remote shards take, but for those just being fetched; the longest unused ones go first.
    It should hold a few dozen shards.
    `failed` says of shards that could not be had when, why and what they are counted by.
    """

    folder: Path
    max_bytes: int = 50 << 30
    timeout: float = 30.0  # seconds without a byte
    retry_after: float = RETRY_AFTER
    longest_pause: float = LONGEST_PAUSE
    failed: dict[str, tuple[float, str, str]] = field(default_factory=dict)

    def path(self, url: str) -> Path:
        """A shard as a local file, fetched if need be.

        Raises:
            UnusablePair: it cannot be had now, or could not a short while ago.
        """
        if url in self.failed:
            when, why, reason = self.failed[url]
            if time.monotonic() - when < self.retry_after:
                raise UnusablePair(url, why, reason)
            del self.failed[url]
        try:
            return self._fetched(url) if is_remote(url) else _local(url)
        except (DownloadError, OSError) as error:
            why = str(error).removeprefix(f"{url}: ")
            raise self.failure(url, why, "shard not available") from error

    def open(self, url: str) -> int:
        """A shard as an open file descriptor; `UnusablePair` as for `path`."""
        while True:
            try:
                return os.open(self.path(url), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # thrown out by another process this very moment
                continue

    def discard(self, url: str) -> None:
        """Removes what was fetched of a remote shard, so that it is fetched anew."""
        if is_remote(url):
            (self.folder / "shards" / self.name(url)).unlink(missing_ok=True)

    def failure(self, url: str, why: str, reason: str) -> UnusablePair:
        """Remembers that a shard is of no use for now, and says so."""
        self.failed[url] = time.monotonic(), why, reason
        return UnusablePair(url, why, reason)

    def name(self, url: str) -> str:
        """A file name for what is kept of a shard."""
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        return f"{digest}-{re.sub(r'[^A-Za-z0-9._-]', '_', urlsplit(url).path.rsplit('/', 1)[-1])[-80:]}"

    def index(self, url: str, descriptor: int, what: str, build: Callable[[Path], None]) -> Path:
        """A file with `what` there is to know of an open shard, such as `jpg.png.npy`, made by `build` if need be.

        Of another version of the shard it is another file.
        """
        stat = os.fstat(descriptor)
        version = f"{stat.st_size:x}" if is_remote(url) else f"{stat.st_size:x}-{stat.st_mtime_ns:x}"
        kind, _, form = what.rpartition(".")
        return built_once(self.folder / "indexes" / f"{self.name(url)}-{kind}-{version}.{form}", build)

    def _fetched(self, url: str) -> Path:
        target = self.folder / "shards" / self.name(url)
        if not target.exists():
            self.make_room()
            download(
                url,
                target,
                progress=_silent,
                sleep=lambda seconds: time.sleep(min(seconds, self.longest_pause)),
                timeout=self.timeout,
            )
        with contextlib.suppress(FileNotFoundError):  # thrown out by another process this very moment
            os.utime(target)
        return target

    def make_room(self) -> None:
        """Deletes the longest unused shards beyond the limit. Processes that have one open go on reading it."""
        kept = 0
        for _, size, path in sorted(self._whole_shards(), reverse=True):
            kept += size
            if kept > self.max_bytes:
                path.unlink(missing_ok=True)

    def _whole_shards(self) -> Iterator[tuple[float, int, Path]]:
        folder = self.folder / "shards"
        for path in folder.iterdir() if folder.exists() else ():
            if path.suffix not in (".part", ".version", ".lock"):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    yield stat.st_mtime, stat.st_size, path


def local_path(url: str) -> Path:
    """The file of a `file:` URL, or of a path as it is."""
    return Path(unquote(urlsplit(url).path)) if url.startswith("file:") else Path(url)


def _local(url: str) -> Path:
    path = local_path(url)
    if not path.is_file():
        raise FileNotFoundError("no such file")
    return path


def _silent(have: int, total: int | None) -> None:
    """Shards come and go by the hundred: no progress line for each."""
