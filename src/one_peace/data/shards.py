"""Webdataset shards: tar files in which `KEY.jpg` and `KEY.txt` are a pair. Local or remote, random-access."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from one_peace.data.cache_files import built_once
from one_peace.data.open_file import OpenFile
from one_peace.data.shard_cache import ShardCache, expand_braces, is_remote
from one_peace.data.shard_index import MOST_PAIRS, lengths_by_index
from one_peace.data.source import RawPair, UnusablePair
from one_peace.data.tar_files import ENTRY, TEXTS, contents_at, member_name, write_pairs
from one_peace.errors import InputError
from one_peace.media.arrays import PARSING
from one_peace.modalities import get_modality

CAPTION_FIELDS = ("caption", "text")  # of a .json
OPEN_SHARDS = 64  # indexes and files kept open by a process
FETCHED_AT_ONCE = 8
TRIED_FIRST = 16  # shards of which none can be had: the others are not asked for
REPORTED = 100  # shards counted between two lines that say so
SIZES = "sizes.json"  # the usual name of a file that says how many pairs each shard beside it holds

log = logging.getLogger("one_peace.data")


class ShardSource:
    """Pairs of tar shards.

    The place of a pair must be known without reading all shards, and must never change. Local shards are indexed by
    reading their headers, once. How many pairs remote ones hold is said by `index`, or by `pairs_per_shard`, or they
    are counted: then each is fetched once before the first pair is read, and the numbers are kept. Where numbers turn
    out wrong, places beyond the end of a smaller shard are unusable, and what a larger one has beyond is not drawn.

    Args:
        pattern: paths or http, https and file URLs, with ranges such as `name-{000000..000123}.tar`.
        endings: of the names of the partner's files, `("jpg", "png")`, best first.
        index: path or URL of a JSON file, `{"name-000000.tar": 1000, ...}` or
            `{"shardlist": [{"url": "name-000000.tar", "nsamples": 1000}, ...]}`; folders before a name tell shards of
            one name apart. By default the `sizes.json` beside remote shards, if there is one in each of their folders.
        labels: texts for `KEY.cls`, which holds a number; without them the number itself is the text.

    Raises:
        InputError: no shard can be had, they hold no pairs, `pairs_per_shard` is none, or the index is damaged or
            lacks one.
    """

    sized_by_block = True

    def __init__(
        self,
        pattern: str | Sequence[str],
        endings: Sequence[str],
        cache: ShardCache,
        *,
        pairs_per_shard: int | None = None,
        index: str | None = None,
        labels: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        self.name = name or patterns[0]
        self.urls = [url for each in patterns for url in expand_braces(each)]
        self.cache = cache
        self.labels = None if labels is None else dict(enumerate(labels))
        self.endings = tuple(ending.lstrip(".").lower() for ending in endings)
        self._opened: OrderedDict[int, OpenFile] = OrderedDict()
        self._away: dict[int, tuple[str, str]] = {}  # shards whose pairs `sizes` could not measure: why, and the reason
        if index is not None:
            lengths = self._indexed(index, self.urls)
        elif pairs_per_shard is not None:
            if not 0 < pairs_per_shard <= MOST_PAIRS:
                raise InputError(self.name, f"pairs_per_shard={pairs_per_shard}; give a number from 1 to {MOST_PAIRS}")
            lengths = [pairs_per_shard] * len(self.urls)
        elif any(map(is_remote, self.urls)):
            lengths = json.loads(built_once(self._plan_path(), self._plan).read_text(encoding="utf-8"))
        else:
            lengths = self._counted()
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
        url = self.urls[shard]
        if shard in self._away:
            raise UnusablePair(url, *self._away[shard])
        opened = self._open(shard)
        if place >= len(opened.index):
            raise UnusablePair(url, f"holds only {len(opened.index)} pairs", "shard smaller than said")
        entry = opened.index[place]
        key = f"{url}, {member_name(opened.descriptor, int(entry['media']))}"
        media = contents_at(opened.descriptor, int(entry["media"]), int(entry["media_size"]), key)
        text = contents_at(opened.descriptor, int(entry["text"]), int(entry["text_size"]), key)
        return RawPair(key, self._caption(text, TEXTS[entry["form"]], key), media)

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Bytes of texts and files, by the headers. Fetches the shards they are in, several at once.

        One that cannot be had counts as away until the next call, even if it comes back before: without its sizes its
        pairs stand in other batches here than in a process that had it, which would draw some of them once more.
        """
        shards = np.searchsorted(self.blocks, indices, side="right") - 1
        places = indices - self.blocks[shards]
        sizes = np.zeros((len(indices), 2), np.int64)
        needed = [int(shard) for shard in np.unique(shards)]
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            for shard, entries in zip(needed, pool.map(self._entries_if_any, needed), strict=True):
                inside = (shards == shard) & (places < len(entries))
                chosen = entries[places[inside]]
                sizes[inside] = np.stack([chosen["text_size"], chosen["media_size"]], axis=1)
        away = [shard for shard in needed if shard not in self._opened and self.urls[shard] in self.cache.failed]
        self._away = {shard: self.cache.failed[self.urls[shard]][1:] for shard in away}
        return sizes

    def _caption(self, content: bytes, form: str, key: str) -> str:
        try:
            text = content.decode("utf-8")
            if form == "cls":
                return text.strip() if self.labels is None else self.labels[int(text)]
            if form == "txt":
                return text
            return _caption_among(json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UnusablePair(key, f"its .{form} holds no caption", f"bad .{form}") from error

    def _entries_if_any(self, shard: int) -> np.ndarray:
        try:
            return (self._opened.get(shard) or self._open_anew(shard)).index
        except UnusablePair:  # said when one of its pairs is read
            return np.empty(0, ENTRY)

    def _open_anew(self, shard: int) -> OpenFile:
        url = self.urls[shard]
        descriptor = self.cache.open(url)
        try:
            build = partial(write_pairs, descriptor, self.endings)
            path = self.cache.index(url, descriptor, f"{'.'.join(self.endings)}.npy", build)
            with PARSING:
                return OpenFile(descriptor, np.load(path))
        except tarfile.TarError as error:
            os.close(descriptor)
            self.cache.discard(url)  # perhaps the error page of a server
            raise self.cache.failure(url, f"is not an uncompressed tar file ({error})", "bad shard") from error
        except OSError as error:
            os.close(descriptor)
            why = f"its index cannot be made: {error.strerror or error}"
            raise self.cache.failure(url, why, "shard not available") from error

    def _open(self, shard: int) -> OpenFile:
        """An open shard; the last ones stay open. Of threads that ask for one at once, the first one's is kept."""
        opened = self._opened.get(shard)
        if opened is None:
            opened = self._opened.setdefault(shard, self._open_anew(shard))
            if len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)
        return opened

    def _counted(self) -> list[int]:
        """The number of pairs in each shard, by reading all headers; 0 for those that cannot be had."""
        lengths: list[int] = []
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            for number, entries in enumerate(pool.map(self._entries_if_any, range(len(self.urls))), 1):
                lengths.append(len(entries))
                tried = number == min(TRIED_FIRST, len(self.urls))
                if tried and all(url in self.cache.failed for url in self.urls[:number]):
                    pool.shutdown(cancel_futures=True)
                    why = f"{number} tried; {self.urls[0]}: {self.cache.failed[self.urls[0]][1]}"
                    raise InputError(self.name, f"none of its {len(self.urls)} shards can be used ({why})")
                if number % REPORTED == 0:
                    log.warning("%s: counted the pairs of %d of %d shards", self.name, number, len(self.urls))
        for url in self.urls:
            if url in self.cache.failed:
                log.warning("left out: the shard %s: %s", url, self.cache.failed[url][1])
        return lengths

    def _indexed(self, place: str, urls: Sequence[str]) -> list[int]:
        """The number of pairs in each shard, by an index. One that was kept and does not fit may be mended by now."""
        try:
            return lengths_by_index(urls, *_fetched_index(place, self.cache))
        except UnusablePair:
            raise
        except InputError:
            self.cache.discard(place)
            return lengths_by_index(urls, *_fetched_index(place, self.cache))

    def _plan_path(self) -> Path:
        digest = hashlib.sha256("\n".join([*self.urls, *self.endings]).encode()).hexdigest()[:20]
        return self.cache.folder / "indexes" / f"sizes-{digest}.json"

    def _plan(self, target: Path) -> None:
        """Writes down the number of pairs in each remote shard, so that it stays the same."""
        beside: dict[str, list[str]] = {}
        for url in self.urls:
            beside.setdefault(urljoin(url, SIZES), []).append(url)
        try:
            sizes: dict[str, int] = {}
            for place, urls in beside.items():
                sizes |= zip(urls, self._indexed(place, urls), strict=True)
            lengths = [sizes[url] for url in self.urls]
        except UnusablePair:
            log.warning(
                "%s: no %s beside its %d shards, so all are fetched once to count their pairs; "
                "pairs_per_shard or index in the recipe saves that",
                *(self.name, SIZES, len(self.urls)),
            )
            lengths = self._counted()
            self.cache.make_room()
            # One that cannot be had today may be there tomorrow: it keeps a place for as many pairs as most have.
            usual = int(np.median([length for length in lengths if length] or [0]))
            lengths = [
                usual if url in self.cache.failed else length for url, length in zip(self.urls, lengths, strict=True)
            ]
        target.write_text(json.dumps(lengths), encoding="utf-8")


def _caption_among(values: Any) -> str:
    """The first text in the fields of a .json that may hold the caption; of a list of them its first."""
    for name in CAPTION_FIELDS if isinstance(values, dict) else ():
        found = values.get(name)
        text = found[0] if isinstance(found, list) and found else found
        if isinstance(text, str) and text.strip():
            return text
    raise ValueError(f"no text in its {' or '.join(CAPTION_FIELDS)}")


def media_endings(modality: str) -> tuple[str, ...]:
    """Endings of the files of a modality, best first.

    Raises:
        ValueError: no such modality, or it does not say.
    """
    found = tuple(ending.removeprefix(".") for ending in get_modality(modality).endings.split())
    if not found:
        raise ValueError(f"shards of {modality}: say by `endings` which file endings are of that modality")
    return found


def _fetched_index(place: str, cache: ShardCache) -> tuple[str, bytes]:
    """Its place, and its content; `UnusablePair`, which is an `InputError`, if it cannot be had."""
    descriptor = cache.open(place)
    with os.fdopen(descriptor, "rb") as file:
        return place, file.read()
