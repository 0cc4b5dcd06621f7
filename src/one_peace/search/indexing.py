"""Bringing a store up to date with files: new ones are encoded, moved ones renamed, lost ones removed."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from one_peace.search.changing import change_entries
from one_peace.search.contents import Content
from one_peace.search.encoding import Encoded, Encoder, encode_contents, row_id, rows_of
from one_peace.search.file_kinds import Kind
from one_peace.search.known_items import KnownItems, by_item
from one_peace.search.manifest import Rejected
from one_peace.search.reading import Failure, Reader, Reading, is_still
from one_peace.search.records import Entry, Record
from one_peace.search.stores.base import VectorStore
from one_peace.search.walk import Found, Walk, name_of

_BATCH = 128  # files that are encoded and committed together, fewer if they are big:
_BATCH_BYTES = 1 << 27  # decoded

Track: TypeAlias = Callable[[Iterator[Any], int], Iterable[Any]]


@dataclass
class IndexReport:
    """What a run did, in numbers of files; `problems` says by path why a file, or a part of it, is not in the library.

    `changed` counts new contents, new captions, new tags and new times of change. `items` has the id of every file of
    this run that is in the library, by path. `left_out` counts files of the folder that are of no kind that the model
    takes, by the endings of their names.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        names = ("added", "changed", "renamed", "removed", "unchanged")
        unread = len(self.problems.keys() - self.items.keys())
        counts = {name: getattr(self, name) for name in names}
        counts |= {"not readable": unread, "read in part": len(self.problems) - unread}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to index"


class Indexing:
    """One run; `run` does it.

    Everything is committed batch by batch, so that a run that was killed is continued by the next one.

    Args:
        kinds: how files are read, by kind.
        home: the folder of the library; what lies in it is not taken for lost when it is not walked through.
        only, ids: the paths that this run is about, by default all, and ids for some of them (`KnownItems`).
        rejected: files that could not be used before, by path; brought up to date.
        save_rejected: keeps that.

    Attributes:
        written: embeddings that it stored, by branch.
    """

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        kinds: dict[str, Kind],
        home: Path,
        rejected: dict[str, Rejected],
        save_rejected: Callable[[dict[str, Rejected]], None],
        only: Sequence[str] | None = None,
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.kinds = kinds
        self.home = os.path.join(home, "")
        self.rejected = rejected
        self.save_rejected = save_rejected
        self.report = IndexReport()
        self.written: Counter[str] = Counter()
        self._unsaved = False  # what became of `rejected`
        self._reader = Reader(kinds, encoder.modalities)
        self._known = KnownItems(store, only, ids)

    def run(self, walk: Walk, folder: Path | None, track: Track) -> IndexReport:
        """Takes in the files that were found; items of other files below `folder` are renamed or removed.

        `track` is handed the files as they are read, with their number, and passes them on.
        """
        self.report.problems.update(walk.problems)
        self.report.left_out = walk.left_out
        self.store.delete(self._known.leftover)
        if folder is not None:
            self._miss(walk, os.path.join(folder, ""))
        todo = self._new_and_changed(walk)
        batch: list[Reading] = []
        for outcome in track(self._reader.read_all(todo, self._known.has), len(todo)):
            if isinstance(outcome, Failure):
                self._reject(outcome)
                continue
            if _full(batch):
                self._commit(batch)
                batch = []
            batch.append(outcome)
        self._commit(batch)
        gone = self._known.lost()
        self.store.delete([row.id for rows in gone for row in rows])
        self.report.removed += len(gone)
        if todo or gone:
            self.store.finish()
        self._save_rejected()
        return self.report

    def _miss(self, walk: Walk, inside: str) -> None:
        """Notes what is known of `inside` and was not found there."""
        for path, rows in self._known.by_path.items():
            if path.startswith(inside) and path not in walk.found and not walk.could_hold(path):
                if path.startswith(self.home) and os.path.lexists(path):
                    continue
                self._known.lose(rows)
        forgotten = [path for path in self.rejected if path.startswith(inside) and path not in walk.found]
        for path in forgotten:
            del self.rejected[path]
        self._unsaved |= bool(forgotten)

    def _new_and_changed(self, walk: Walk) -> list[Found]:
        """Files to read, grouped by kind. A caption or tags that alone have changed are stored right here."""
        todo: list[Found] = []
        described: dict[str, dict[str, Any]] = {}  # what changes, by the id of the row
        for file in walk.found.values():
            rows, reject = self._known.by_path.get(file.path, []), self.rejected.get(file.path)
            if reject is not None and (reject.size, reject.mtime) == (file.size, file.mtime):
                self.report.problems[file.path] = reject.problem
                continue
            if not rows or (rows[0].size, rows[0].mtime) != (file.size, file.mtime) or file.path in self._known.broken:
                todo.append(file)
                continue
            self.report.items[file.path] = rows[0].item
            tags = _tags(file, rows)
            if (_caption(rows[0], file.caption), tags) != (rows[0].caption, rows[0].tags):
                described |= {row.id: {"caption": _caption(row, file.caption), "tags": tags} for row in rows}
                self.report.changed += 1
            else:
                self.report.unchanged += 1
        change_entries(self.store, described)
        order = list(self.kinds)
        return sorted(todo, key=lambda file: order.index(file.modality))

    def _commit(self, batch: Sequence[Reading]) -> None:
        """Puts a batch into the store, all rows of an item at once. On return it is on disk."""
        contents = [(reading.file.modality, reading.digest) for reading in batch if reading.content is None]
        twins = self.store.rows([row.id for key in contents for row in self._known.by_contents[key]])
        records: list[Record] = []
        fresh: list[tuple[Reading, Content]] = []
        for reading in batch:
            twin: list[Record] = []
            if reading.content is None:
                rows = self._known.by_contents[reading.file.modality, reading.digest]
                twin = [
                    twins[row.id] for row in rows if row.id in twins and twins[row.id].entry.digest == reading.digest
                ]
                if len(twin) < len(rows):  # overwritten in this very run
                    again = self._reader.read(reading.file)
                    if isinstance(again, Failure):
                        self._reject(again)
                        continue
                    reading = again
            if reading.content is not None:
                fresh.append((reading, reading.content))
            else:
                records += self._like(reading, twin)
        for (reading, content), encoded in zip(fresh, self._encode(fresh), strict=True):
            whole = self._item(reading, content.caption, content.duration) if encoded.pieces else None
            if whole is not None:
                records += rows_of(whole, content, encoded)
        if records:
            self.store.add(records)
            self.written.update(record.entry.branch for record in records)
        items = by_item([record.entry for record in records])
        written = {record.entry.id for record in records}
        before = [row for rows in items for row in self._known.by_path.get(rows[0].path, [])]
        self.store.delete([row.id for row in before if row.id not in written])  # it had more parts
        for rows in items:
            self._known.update(rows)
        forgiven = [record.entry.path for record in records if self.rejected.pop(record.entry.path, None)]
        self._unsaved |= bool(forgiven)
        self._save_rejected()

    def _encode(self, files: list[tuple[Reading, Content]]) -> list[Encoded]:
        """The contents through the model; a file of which nothing comes out is rejected."""
        found = encode_contents(self.encoder, [content for _, content in files])
        for (reading, _), encoded in zip(files, found, strict=True):
            if not encoded.pieces:
                self._reject(Failure(reading.file, encoded.problem, encoded.lasting))
            elif encoded.problem:
                self.report.problems[reading.file.path] = encoded.problem
        return found

    def _like(self, reading: Reading, twin: list[Record]) -> list[Record]:
        """The rows of a file of the same contents as another one."""
        first = twin[0].entry
        said = first.caption if first.modality == "text" else ""  # others' contents say nothing
        whole = self._item(reading, said, first.duration)
        if whole is None:
            return []
        records = []
        for row in twin:
            part = row.entry
            entry = replace(
                whole,
                id=row_id(whole.item, part.part),
                caption=_caption(part, whole.caption),
                branch=part.branch,
                part=part.part,
                parts=part.parts,
                label=part.label,
                start=part.start,
            )
            records.append(replace(row, entry=entry))
        return records

    def _item(self, reading: Reading, caption: str, duration: float | None) -> Entry | None:
        """What all rows of a file share, under the id that it had before; None if it changed while it was read."""
        file, digest = reading.file, reading.digest
        if not is_still(file):
            self.report.problems[file.path] = "changed while it was read; index again"
            return None
        before = self._known.by_path.get(file.path)
        if before:
            self.report.changed += 1
        elif before := self._known.found_again(file.modality, digest):
            self.report.renamed += 1
        else:
            self.report.added += 1
        item = before[0].item if before else self._known.new_id(file.path)
        self.report.items[file.path] = item
        return Entry(
            id=item,
            item=item,
            path=file.path,
            modality=file.modality,
            digest=digest,
            size=file.size,
            mtime=file.mtime,
            caption=file.caption or caption or (before[0].caption if before else name_of(Path(file.path))),
            duration=duration,
            tags=_tags(file, before),
            added=before[0].added if before else time.time_ns(),
        )

    def _save_rejected(self) -> None:
        """Once for many: it is the whole list each time."""
        if self._unsaved:
            self.save_rejected(self.rejected)
            self._unsaved = False

    def _reject(self, failure: Failure) -> None:
        file = failure.file
        self.report.problems[file.path] = failure.problem
        if not failure.lasting:
            return
        self.rejected[file.path] = Rejected(file.size, file.mtime, failure.problem)
        self._unsaved = True
        before = self._known.by_path.pop(file.path, None)
        if before is not None:  # what was indexed is not in the file any more
            self.store.delete([row.id for row in before])
            self.report.removed += 1


def _tags(file: Found, before: Sequence[Entry] | None) -> tuple[str, ...]:
    """The tags of a file whose rows were these: its own, or if nothing names any, those that it had."""
    if file.tags is not None:
        return file.tags
    return before[0].tags if before else ()


def _caption(row: Entry, caption: str) -> str:
    """The caption of a row of a file with this caption; a passage of a text shows its own words."""
    return row.caption if not caption or (row.modality == "text" and row.label) else caption


def _full(batch: Sequence[Reading]) -> bool:
    size = sum(reading.content.nbytes for reading in batch if reading.content is not None)
    return len(batch) >= _BATCH or size >= _BATCH_BYTES
