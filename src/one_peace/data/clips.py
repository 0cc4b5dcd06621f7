"""Clips: texts with one or several of picture, video, sound, depth and normals that belong together.

Rows by number, as those of a table: what a clip has by modality, as contents or a path, and its texts under the names
that tables of captions have. A row may instead list several clips of one caption under `clips`.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from one_peace.data.manifest import Item, Split, normalise_caption
from one_peace.data.pairs import source_of
from one_peace.data.shard_cache import ShardCache, expand_braces
from one_peace.data.shards import OPEN_SHARDS, media_endings
from one_peace.data.tar_files import contents_at, members_of
from one_peace.errors import InputError

TEXT_FILES = ("json", "txt")  # the first has all captions of a clip, the other one
CAPTIONS = "captions"  # of a .json: by kind, each a list

Place = tuple[int, int]  # of a file in a shard: where it begins, and its length


class ClipShards:
    """The clips of webdataset shards, as `one-peace clips` writes them, that have a text and all of some modalities.

    Shards are indexed by their headers, once; remote ones are fetched for that.

    Raises:
        InputError: a shard cannot be had, or none holds such a clip.
    """

    media: tuple[str, ...] = ()  # all is read already

    def __init__(self, pattern: str, modalities: Sequence[str], cache: ShardCache) -> None:
        self.path, self.cache = pattern, cache
        self.urls = expand_braces(pattern)
        self.endings = {name: media_endings(name) for name in modalities}
        self._opened: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self.places: list[tuple[int, str, dict[str, Place]]] = []  # shard, key, files by modality or ending of a text
        for number, url in enumerate(self.urls):
            self.places += [(number, key, files) for key, files in self._indexed(url)]
        if not self.places:
            raise InputError(pattern, f"its shards hold no clip with a text and {', '.join(modalities)}")

    def __len__(self) -> int:
        return len(self.places)

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """(key, what the clip has) of a clip. `InputError` where the shard is damaged."""
        shard, name, files = self.places[index]
        key = f"{self.urls[shard]}, {name}"
        with self._lock:  # threads read ahead, and one may close the shard of another
            descriptor = self._open(shard)
            read = {kind: contents_at(descriptor, *place, key) for kind, place in files.items()}
        row: dict[str, Any] = {}
        try:
            if "json" in read:
                values = json.loads(read.pop("json"))
                row |= {**values, **values.get(CAPTIONS, {})}
            if "txt" in read:
                row.setdefault("caption", read.pop("txt").decode("utf-8"))
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(key, f"its text cannot be read ({error})") from error
        return key, row | {kind: read[kind] for kind in self.endings}

    def _open(self, shard: int) -> int:
        """A descriptor of a shard; those used last stay open."""
        if shard not in self._opened:
            self._opened[shard] = self.cache.open(self.urls[shard])
            if len(self._opened) > OPEN_SHARDS:
                os.close(self._opened.popitem(last=False)[1])
        self._opened.move_to_end(shard)
        return self._opened[shard]

    def _indexed(self, url: str) -> list[tuple[str, dict[str, Place]]]:
        descriptor = self.cache.open(url)
        try:
            build = partial(_write_index, descriptor, self.endings)
            index = self.cache.index(url, descriptor, f"clips-{'.'.join(self.endings)}.json", build)
        except tarfile.TarError as error:
            self.cache.discard(url)
            raise InputError(url, f"is not an uncompressed tar file ({error})") from error
        finally:
            os.close(descriptor)
        listed = json.loads(index.read_text(encoding="utf-8"))
        return [(key, {kind: (start, size) for kind, (start, size) in files.items()}) for key, files in listed]


def _write_index(descriptor: int, endings: Mapping[str, Sequence[str]], target: Path) -> None:
    """Which clips of a shard have a text and all modalities, and where their files are."""
    clips = []
    for key, members in itertools.groupby(members_of(descriptor), lambda member: member[0]):
        found = {ending: [member.offset_data, member.size] for _, ending, member in members}
        files = {form: found[form] for form in TEXT_FILES if form in found}
        texts = len(files)
        for name, known in endings.items():
            ending = next((ending for ending in known if ending in found), None)
            if ending is not None:
                files[name] = found[ending]
        if texts and len(files) == texts + len(endings):
            clips.append([key, files])
    target.write_text(json.dumps(clips), encoding="utf-8")


class LibraryClips:
    """Clips of a sample library: a row for each caption, with all that the library has of it in a split.

    Of one modality a clip is an item; a sound has the captions of the picture that it belongs to. Of `image` and
    `audio` it is a picture with one of its own sounds. No text is one of `withheld` (normalised captions). `only` are
    the sources or tracks to take from, all by default.

    Raises:
        InputError: there is no such clip.
    """

    media: tuple[str, ...] = ()

    def __init__(
        self,
        items: Iterable[Item],
        modalities: Sequence[str],
        *,
        split: Split = "train",
        only: Collection[str] = (),
        withheld: Collection[str] = (),
    ) -> None:
        self.path = "the sample library"
        every = [item for item in items if item.split == split and not item.heldout_speaker]
        texts = {item.id: item.texts for item in every if item.kind == "image"}
        by_caption: dict[str, list[dict[str, Any]]] = defaultdict(list)
        chosen = [item for item in every if not only or source_of(item, only) in only]
        for item, found in _members(chosen, every, modalities):
            captions = [
                caption
                for caption in (item.texts or texts.get(item.item or "", {})).get("en", [])
                if normalise_caption(caption) not in withheld
            ]
            if captions:
                by_caption[item.group].append({"caption": captions, **found})
        self.groups = sorted(by_caption)
        self.clips = [by_caption[group] for group in self.groups]
        if not self.clips:
            raise InputError(self.path, f"has no {split} clip of {' and '.join(modalities)} with an English caption")

    def __len__(self) -> int:
        return len(self.clips)

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        """(key, all clips of a caption)."""
        return f"{self.path}, {self.groups[index]!r}", {"clips": self.clips[index]}


def _members(
    chosen: Sequence[Item], every: Sequence[Item], modalities: Sequence[str]
) -> Iterable[tuple[Item, dict[str, Path]]]:
    """Items with the files of a clip by modality."""
    wanted = set(modalities)
    if wanted == {"image", "audio"}:
        pictures = {item.id: item for item in every if item.kind == "image"}
        for item in chosen:
            if item.kind == "audio" and item.item in pictures:
                yield item, {"image": pictures[item.item].path, "audio": item.path}
        return
    for item in chosen:
        if {item.kind} == wanted:
            yield item, {item.kind: item.path}
