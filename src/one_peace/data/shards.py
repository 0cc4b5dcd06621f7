"""Webdataset shards: tar files in which `KEY.jpg` and `KEY.txt` are a pair. Local or remote, random-access."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from one_peace.data.cache_files import built_once
from one_peace.data.shard_cache import ShardCache, expand_braces, is_remote
from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import InputError

MEDIA = {
    "image": ("jpg", "jpeg", "png", "webp", "gif", "bmp"),
    "audio": ("wav", "flac", "ogg", "opus", "mp3", "m4a"),
}
TEXTS = ("txt", "json", "cls")
CAPTION_FIELDS = ("caption", "text")  # of a .json
ENTRY = np.dtype([("text", "<i8"), ("text_size", "<i8"), ("form", "u1"), ("media", "<i8"), ("media_size", "<i8")])
OPEN_SHARDS = 64  # indexes and files kept open by a process
TRIED_FIRST = 16  # remote shards tried for the number of pairs in one
FETCHED_AT_ONCE = 8
_BLOCK = 512  # bytes of a tar header

log = logging.getLogger("one_peace.data")


class ShardSource:
    """Pairs of tar shards.

    The place of a pair must be known without reading all shards. Local shards are indexed by reading their headers,
    once. Remote ones are indexed as they are fetched: each is taken to hold `pairs_per_shard`, by default as many as
    the first one that can be had; places beyond the end of a smaller shard are unusable, pairs beyond that number are
    not drawn.

    Args:
        pattern: paths or http, https and file URLs, with ranges such as `name-{000000..000123}.tar`.
        partner: `image` or `audio`; other modalities give their file endings in `endings`.
        labels: texts for `KEY.cls`, which holds a number; without them the number itself is the text.

    Raises:
        InputError: no shard can be had, or the first ones hold no pairs.
    """

    def __init__(
        self,
        pattern: str | Sequence[str],
        partner: str,
        cache: ShardCache,
        *,
        pairs_per_shard: int | None = None,
        labels: Sequence[str] | None = None,
        endings: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        self.name = name or patterns[0]
        self.urls = [url for each in patterns for url in expand_braces(each)]
        self.cache = cache
        self.labels = None if labels is None else dict(enumerate(labels))
        known = MEDIA.get(partner) if endings is None else tuple(endings)
        if known is None:
            raise ValueError(f"shards of {partner}: say by `endings` which file endings are a {partner}")
        self.endings = known
        self._opened: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()
        if pairs_per_shard is None and not any(map(is_remote, self.urls)):
            lengths = self._local_lengths()
        else:
            size = pairs_per_shard or built_once(self._plan_path(), self._plan).read_text(encoding="utf-8")
            lengths = [int(size)] * len(self.urls)
        self.blocks = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if not len(self):
            raise InputError(self.name, f"its shards hold no pair of {'/'.join(TEXTS)} and {'/'.join(self.endings)}")

    def __len__(self) -> int:
        return int(self.blocks[-1])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": OrderedDict()}

    def read(self, index: int) -> RawPair:
        shard = int(np.searchsorted(self.blocks, index, side="right")) - 1
        place = index - int(self.blocks[shard])
        descriptor, entries = self._open(shard)
        url = self.urls[shard]
        if place >= len(entries):
            raise UnusablePair(url, f"holds only {len(entries)} pairs", "shard smaller than the others")
        entry = entries[place]
        key = f"{url}, {_member_name(descriptor, int(entry['media']))}"
        media = _contents(descriptor, int(entry["media"]), int(entry["media_size"]), key)
        text = _contents(descriptor, int(entry["text"]), int(entry["text_size"]), key)
        return RawPair(key, self._caption(text, TEXTS[entry["form"]], key), media)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Bytes of texts and files, by the headers. Fetches the shards they are in, several at once."""
        shards = np.searchsorted(self.blocks, indices, side="right") - 1
        places = indices - self.blocks[shards]
        sizes = np.zeros((len(indices), 2), np.int64)
        needed = [int(shard) for shard in np.unique(shards)]
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            for shard, entries in zip(needed, pool.map(self._entries_if_any, needed), strict=True):
                inside = (shards == shard) & (places < len(entries))
                chosen = entries[places[inside]]
                sizes[inside] = np.stack([chosen["text_size"], chosen["media_size"]], axis=1)
        return sizes

    def _caption(self, content: bytes, form: str, key: str) -> str:
        try:
            text = content.decode("utf-8")
            if form == "cls":
                return text.strip() if self.labels is None else self.labels[int(text)]
            if form == "txt":
                return text
            values = json.loads(text)
            return str(next(values[name] for name in CAPTION_FIELDS if name in values))
        except (ValueError, TypeError, KeyError, StopIteration, RecursionError) as error:
            raise UnusablePair(key, f"its .{form} holds no caption", f"bad .{form}") from error

    def _entries_if_any(self, shard: int) -> np.ndarray:
        if (opened := self._opened.get(shard)) is not None:
            return opened[1]
        try:
            descriptor, entries = self._entries(shard)
        except UnusablePair:  # said when one of its pairs is read
            return np.empty(0, ENTRY)
        os.close(descriptor)
        return entries

    def _entries(self, shard: int) -> tuple[int, np.ndarray]:
        """A shard opened anew, and its pairs."""
        url = self.urls[shard]
        descriptor = self.cache.open(url)
        try:
            stat = os.fstat(descriptor)
            version = f"{stat.st_size:x}" if is_remote(url) else f"{stat.st_size:x}-{stat.st_mtime_ns:x}"
            name = f"{self.cache.name(url)}-{'.'.join(self.endings)}-{version}.npy"
            build = partial(_write_index, descriptor, self.endings)
            return descriptor, np.load(built_once(self.cache.folder / "indexes" / name, build))
        except tarfile.TarError as error:
            os.close(descriptor)
            self.cache.discard(url)  # perhaps the error page of a server
            raise self.cache.failure(url, f"is not an uncompressed tar file ({error})", "bad shard") from error

    def _open(self, shard: int) -> tuple[int, np.ndarray]:
        """An open file and its entries; the shards used last stay open."""
        if shard in self._opened:
            self._opened.move_to_end(shard)
        else:
            self._opened[shard] = self._entries(shard)
            if len(self._opened) > OPEN_SHARDS:
                os.close(self._opened.popitem(last=False)[1][0])
        return self._opened[shard]

    def _local_lengths(self) -> list[int]:
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            lengths = [len(entries) for entries in pool.map(self._entries_if_any, range(len(self.urls)))]
        missing = [url for url in self.urls if url in self.cache.failed]
        if len(missing) == len(self.urls):
            self._nothing_usable()
        for url in missing:
            log.warning("left out: the shard %s: %s", url, self.cache.failed[url][1])
        return lengths

    def _plan_path(self) -> Path:
        digest = hashlib.sha256("\n".join([*self.urls, *self.endings]).encode()).hexdigest()[:20]
        return self.cache.folder / "indexes" / f"pairs-per-shard-{digest}.txt"

    def _plan(self, target: Path) -> None:
        """Writes down the number of pairs in the first shard that can be had, so that it stays the same."""
        for shard in range(min(TRIED_FIRST, len(self.urls))):
            if count := len(self._entries_if_any(shard)):
                target.write_text(str(count), encoding="utf-8")
                return
        self._nothing_usable()

    def _nothing_usable(self) -> None:
        tried = [url for url in self.urls if url in self.cache.failed]
        why = f"; {tried[0]}: {self.cache.failed[tried[0]][1]}" if tried else ""
        raise InputError(self.name, f"none of its {len(self.urls)} shards can be used ({len(tried)} not there{why})")


def _write_index(descriptor: int, endings: Sequence[str], target: Path) -> None:
    """The pairs of a shard as a table. Of a shard that breaks off, those before.

    Raises:
        tarfile.TarError: not a tar file, or a compressed one.
    """
    entries = []
    with os.fdopen(os.dup(descriptor), "rb") as shard, tarfile.open(fileobj=shard, mode="r:") as archive:
        for _, members in itertools.groupby(_members(archive), lambda member: member[0]):
            found: dict[str, tarfile.TarInfo] = {}
            for _, ending, member in members:
                found.setdefault(ending, member)
            form = next((form for form in TEXTS if form in found), None)
            media = next((found[ending] for ending in endings if ending in found), None)
            if form is not None and media is not None:
                text = found[form]
                row = (text.offset_data, text.size, TEXTS.index(form), media.offset_data, media.size)
                entries.append(row)
    with open(target, "wb") as file:
        np.save(file, np.array(entries, ENTRY))


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, ending and header of each file; the key is its path up to the first dot of its name."""
    while True:
        try:
            member = archive.next()
        except tarfile.TarError:  # it breaks off
            return
        if member is None:
            return
        archive.members = []  # type: ignore[attr-defined]  # or all headers would stay in memory
        if member.isfile():
            folder, slash, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            yield f"{folder}{slash}{stem}", ending.lower(), member


def _member_name(descriptor: int, offset: int) -> str:
    """The name in the header before a member's contents."""
    header = os.pread(descriptor, _BLOCK, offset - _BLOCK)
    return header[:100].split(b"\0", 1)[0].decode("utf-8", "replace")


def _contents(descriptor: int, offset: int, size: int, key: str) -> bytes:
    content = os.pread(descriptor, size, offset)
    if len(content) < size:
        raise UnusablePair(key, "the shard breaks off in the middle of it", "truncated shard")
    return content
