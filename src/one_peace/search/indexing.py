"""Bringing a store up to date with files: new ones are encoded, moved ones renamed, lost ones removed."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from one_peace.errors import InputError, MissingExtraError
from one_peace.search.kinds import KINDS, Content
from one_peace.search.manifest import Rejected
from one_peace.search.records import Entry, Record
from one_peace.search.store import VectorStore
from one_peace.search.walk import Found, Walk, reason

_BATCH = 128  # files that are encoded and committed together, fewer if they are big:
_BATCH_BYTES = 1 << 27  # decoded
_READ_AHEAD = 4  # files decoded at the same time

Track: TypeAlias = Callable[[Iterator[Any], int], Iterable[Any]]


class Encoder(Protocol):
    """What indexing and searching need of a model; `one_peace.OnePeace` is one."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_modality(self, name: str, inputs: Any, /, *, progress: bool | None, on_error: Any) -> Any: ...
    def encode(self, *, weights: Any, **inputs: Any) -> Any: ...


@dataclass
class IndexReport:
    """What a run did, in numbers of files; `problems` says by path why a file is not in the library.

    `changed` counts new contents, new captions and new times of change.
    """

    added: int = 0
    changed: int = 0
    renamed: int = 0
    removed: int = 0
    unchanged: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        names = ("added", "changed", "renamed", "removed", "unchanged")
        counts = {name: getattr(self, name) for name in names} | {"not readable": len(self.problems)}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to index"


@dataclass(frozen=True, eq=False)
class _Reading:
    """A file after reading: its hash, and its contents, or None where the store has their embedding."""

    file: Found
    digest: str
    content: Content | None


@dataclass(frozen=True)
class _Failure:
    file: Found
    problem: str
    lasting: bool  # to be tried again only when the file has changed


class Indexing:
    """One run; `run` does it.

    Everything is committed batch by batch, so that a run that was killed is continued by the next one.

    Args:
        rejected: files that could not be used before, by path; brought up to date.
        save_rejected: keeps that.
    """

    def __init__(
        self,
        store: VectorStore,
        encoder: Encoder,
        rejected: dict[str, Rejected],
        save_rejected: Callable[[dict[str, Rejected]], None],
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.rejected = rejected
        self.save_rejected = save_rejected
        self.report = IndexReport()
        entries = store.entries()
        self._by_path = {entry.path: entry for entry in entries}
        self._by_digest = {(entry.modality, entry.digest): entry for entry in entries}
        self._ids = {entry.id for entry in entries}
        self._vanished: dict[tuple[str, str], list[Entry]] = {}  # by modality and digest

    def run(self, walk: Walk, folder: Path | None, track: Track) -> IndexReport:
        """Takes in the files that were found; rows of other files below `folder` are renamed or removed.

        `track` is handed the files as they are read, with their number, and passes them on.
        """
        self.report.problems.update(walk.problems)
        if folder is not None:
            self._miss(walk, os.path.join(folder, ""))
        todo = self._new_and_changed(walk)
        batch: list[_Reading] = []
        for outcome in track(self._read_all(todo), len(todo)):
            if isinstance(outcome, _Failure):
                self._reject(outcome)
                continue
            if batch and (batch[0].file.modality != outcome.file.modality or _full(batch)):
                self._commit(batch)
                batch = []
            batch.append(outcome)
        self._commit(batch)
        gone = [entry.id for entries in self._vanished.values() for entry in entries]
        self.store.delete(gone)
        self.report.removed += len(gone)
        if todo or gone:
            self.store.finish()
        return self.report

    def _miss(self, walk: Walk, inside: str) -> None:
        """Notes what is known of `inside` and was not found there."""
        for path, entry in self._by_path.items():
            if path.startswith(inside) and path not in walk.found and not walk.could_hold(path):
                self._vanished.setdefault((entry.modality, entry.digest), []).append(entry)
        forgotten = [path for path in self.rejected if path.startswith(inside) and path not in walk.found]
        for path in forgotten:
            del self.rejected[path]
        if forgotten:
            self.save_rejected(self.rejected)

    def _new_and_changed(self, walk: Walk) -> list[Found]:
        """Files to read, grouped by modality. A caption that alone has changed is stored right here."""
        todo: list[Found] = []
        captions: dict[str, str] = {}
        for file in walk.found.values():
            entry, reject = self._by_path.get(file.path), self.rejected.get(file.path)
            if reject is not None and (reject.size, reject.mtime) == (file.size, file.mtime):
                self.report.problems[file.path] = reject.problem
            elif entry is None or (entry.size, entry.mtime) != (file.size, file.mtime):
                todo.append(file)
            elif file.caption and file.caption != entry.caption:
                captions[entry.id] = file.caption
            else:
                self.report.unchanged += 1
        rows = self.store.rows(list(captions))
        self.store.add([replace(row, entry=replace(row.entry, caption=captions[id_])) for id_, row in rows.items()])
        self.report.changed += len(rows)
        order = list(KINDS)
        return sorted(todo, key=lambda file: order.index(file.modality))

    def _read_all(self, files: list[Found]) -> Iterator[_Reading | _Failure]:
        """In the order of `files`, a few ahead of the caller."""
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            waiting: deque[Future[_Reading | _Failure]] = deque()
            try:
                for file in files:
                    waiting.append(pool.submit(self._read, file))
                    if len(waiting) >= _READ_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _read(self, file: Found, reuse: bool = True) -> _Reading | _Failure:
        try:
            digest = digest_of(file.path)
            if reuse and (file.modality, digest) in self._by_digest:
                return _Reading(file, digest, None)
            return _Reading(file, digest, KINDS[file.modality].read(Path(file.path)))
        except InputError as error:
            return _Failure(file, error.problem, lasting=True)
        except OSError as error:  # of the disk or of permissions, which may get better
            return _Failure(file, reason(error), lasting=False)
        except MissingExtraError as error:
            return _Failure(file, str(error), lasting=False)

    def _commit(self, batch: Sequence[_Reading]) -> None:
        """Puts a batch of one modality into the store. On return it is on disk."""
        known = [self._by_digest[r.file.modality, r.digest].id for r in batch if r.content is None]
        twins = {row.entry.digest: row for row in self.store.rows(known).values()}
        records: list[Record] = []
        fresh: list[tuple[_Reading, Content]] = []
        for reading in batch:
            twin = twins.get(reading.digest)
            if reading.content is None and twin is None:  # its twin was overwritten in this very run
                again = self._read(reading.file, reuse=False)
                if isinstance(again, _Failure):
                    self._reject(again)
                    continue
                reading = again
            if reading.content is not None:
                fresh.append((reading, reading.content))
            elif twin is not None:
                content = Content(None, 0, twin.entry.caption, twin.entry.duration, twin.thumbnail)
                records += self._record(reading, content, twin.vector)
        if fresh:
            modality, sources = fresh[0][0].file.modality, [content.source for _, content in fresh]
            result = self.encoder.encode_modality(modality, sources, progress=False, on_error="skip")
            for i, error in result.errors.items():
                self._reject(_Failure(fresh[i][0].file, error.problem, lasting=True))
            for i, vector in zip(result.kept, result.vectors.numpy(), strict=True):
                reading, content = fresh[i]
                records += self._record(reading, content, vector)
        self.store.add(records)
        forgiven = [record.entry.path for record in records if self.rejected.pop(record.entry.path, None)]
        if forgiven:
            self.save_rejected(self.rejected)

    def _record(self, reading: _Reading, content: Content, vector: Any) -> list[Record]:
        """The row of a file, under the id that it had before; none if the file changed while it was read."""
        file, digest = reading.file, reading.digest
        if not _is_still(file):
            self.report.problems[file.path] = "changed while it was read; index again"
            return []
        before = self._by_path.get(file.path)
        moved = self._vanished.get((file.modality, digest))
        if before is not None:
            identity = before.id
            self.report.changed += 1
        elif moved:
            identity = moved.pop().id
            self.report.renamed += 1
        else:
            identity = self._new_id(file.path)
            self.report.added += 1
        entry = Entry(
            id=identity,
            path=file.path,
            modality=file.modality,
            digest=digest,
            size=file.size,
            mtime=file.mtime,
            caption=file.caption or content.caption,
            duration=content.duration,
        )
        self._by_path[file.path] = self._by_digest[file.modality, digest] = entry
        return [Record(entry, vector, content.thumbnail)]

    def _new_id(self, path: str) -> str:
        """Made of the path, so that equal folders give equal ids; unlike the id of any other file."""
        attempt = 0
        while (identity := hashlib.sha256(f"{path}\0{attempt}".encode()).hexdigest()[:24]) in self._ids:
            attempt += 1
        self._ids.add(identity)
        return identity

    def _reject(self, failure: _Failure) -> None:
        file = failure.file
        self.report.problems[file.path] = failure.problem
        if not failure.lasting:
            return
        self.rejected[file.path] = Rejected(file.size, file.mtime, failure.problem)
        self.save_rejected(self.rejected)
        before = self._by_path.pop(file.path, None)
        if before is not None:  # what was indexed is not in the file any more
            self.store.delete([before.id])
            self.report.removed += 1


def digest_of(path: str) -> str:
    """SHA-256 of a file's contents, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _full(batch: Sequence[_Reading]) -> bool:
    size = sum(reading.content.nbytes for reading in batch if reading.content is not None)
    return len(batch) >= _BATCH or size >= _BATCH_BYTES


def _is_still(file: Found) -> bool:
    try:
        status = os.stat(file.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime)
