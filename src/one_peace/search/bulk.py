"""Embedding of large folders into files of vectors: in shards, over processes or a cluster, restartable.

The list of files and how it is cut into shards are written down first (`plan.json`, `items.jsonl`). A shard is done
when its output is there, which appears whole or not at all; a run does the shards that are missing. So every file is
embedded exactly once, whatever was killed in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from one_peace.data.bulk_work import BulkError, damaged_plan, kept_plan, work_here
from one_peace.data.lock import writer_lock
from one_peace.modalities.imports import import_modality, imported_modalities
from one_peace.search.contents import Content
from one_peace.search.encoding import Encoder, encode_contents, rows_of
from one_peace.search.file_kinds import kinds_for
from one_peace.search.manifest import lasting_name
from one_peace.search.reading import Failure, Reader
from one_peace.search.records import Entry, Record, Space
from one_peace.search.shard_files import FORMATS, ShardWriter
from one_peace.search.walk import Found, absolute, walk

_ITEMS = "items.jsonl"
_BATCH_BYTES = 1 << 27  # decoded contents that are encoded together


@dataclass(frozen=True)
class Plan:
    """What is to be embedded by which model, and how it is written.

    `source` is the folder, `items` the number of files in it, `shard_size` how many of them make a shard, `format` one
    of `FORMATS`. `model` is the name or path to load it by in every worker. `problems` has by path what could not be
    looked at, and is in no shard.
    """

    source: str
    model: str
    fingerprint: str
    dim: int
    items: int
    shard_size: int
    format: str
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard_size)

    @property
    def space(self) -> Space:
        return Space(self.model, self.fingerprint, self.dim)


@dataclass(frozen=True)
class Shard:
    """The rows of one shard, and by path what could not be read."""

    number: int
    records: list[Record]
    problems: dict[str, str]


@dataclass(frozen=True)
class BulkReport:
    """What is in the output when a run has ended: files, rows (a video has several), files that could not be read, and
    shards that this run did; and the seconds that it took."""

    items: int
    rows: int
    problems: int
    shards: int
    seconds: float


Runner: TypeAlias = Callable[[Plan, Iterable[tuple[int, list[Found]]], int], Iterator[Shard]]
"""Does shards, (number, files), with a number of workers, in any order."""


def embed_folder(
    folder: Path,
    out: Path,
    model: Encoder,
    model_name: str,
    *,
    format: str = "parquet",
    shard_size: int = 1000,
    workers: int = 1,
    run: Runner | None = None,
    track: Callable[[Iterator[Shard], int], Iterable[Shard]] = lambda shards, total: shards,
) -> BulkReport:
    """Embeds all files below `folder` that the model can read into files in `out`, or goes on with what was begun.

    `run` is who does the work: by default this process, or several on this machine if `workers` is more than 1. Each
    of those loads the model by `model_name`.

    Raises:
        BulkError: `out` was begun with another folder, model, format or size of shards, or is `folder`; that has
            nothing to embed; a worker was killed.
        FolderBusyError: another process is writing to `out`.
    """
    started = time.perf_counter()
    if out.resolve() == folder.resolve():
        raise BulkError(f"{folder} cannot be the output too, whose files are left out; choose another folder for that")
    out.mkdir(parents=True, exist_ok=True)
    with writer_lock(out / "writer.lock"):
        plan = _planned(absolute(folder), out, model, model_name, format, shard_size)
        writer: ShardWriter = FORMATS[format](out, plan.space, plan.shards)
        done = writer.done()
        todo = ((number, files) for number, files in _shards(out, plan) if number not in done)
        made: Iterator[Shard]
        if run is None and workers == 1:
            made = (embed_shard(model, plan, *task) for task in todo)
        else:
            made = (run or run_here)(plan, todo, workers)
        for shard in track(made, plan.shards - len(done)):
            writer.write(shard.number, shard.records, shard.problems)
        totals = writer.totals()
        return BulkReport(
            items=plan.items + len(plan.problems),
            rows=totals.rows,
            problems=totals.problems + len(plan.problems),
            shards=plan.shards - len(done),
            seconds=time.perf_counter() - started,
        )


def run_here(plan: Plan, shards: Iterable[tuple[int, list[Found]]], workers: int) -> Iterator[Shard]:
    """As `Runner`: in processes of this machine (`work_here`)."""
    return work_here(partial(load_worker, plan, imported_modalities()), shards, workers)


def embed_shard(model: Encoder, plan: Plan, number: int, files: Sequence[Found]) -> Shard:
    """The rows of the files of a shard."""
    reader = Reader(kinds_for(model.modalities), model.modalities)
    problems: dict[str, str] = {}
    records: list[Record] = []
    batch: list[tuple[Entry, Content]] = []
    held = 0

    def flush() -> None:
        for (whole, content), encoded in zip(batch, encode_contents(model, [c for _, c in batch]), strict=True):
            records.extend(rows_of(whole, content, encoded))
            if encoded.problem:
                problems[whole.path] = encoded.problem
        batch.clear()

    for file in files:
        outcome = reader.read(file)
        if isinstance(outcome, Failure):
            problems[file.path] = outcome.problem
            continue
        assert outcome.content is not None  # as nothing is known
        batch.append((_entry(file, outcome.digest, outcome.content), outcome.content))
        held += outcome.content.nbytes
        if held >= _BATCH_BYTES:
            flush()
            held = 0
    flush()
    return Shard(number, records, problems)


def load_worker(plan: Plan, imports: Sequence[str], device: str, threads: int) -> Callable[[int, list[Found]], Shard]:
    """The model in a process that does shards; the result does one. `imports` are the modalities of a user's own.

    Raises:
        BulkError: what is loaded there by the plan's name is another model.
        InputError: one of the imports fails there.
    """
    import torch

    import one_peace
    from one_peace.nn.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    for name in imports:
        import_modality(name)
    model = one_peace.from_pretrained(plan.model, device=device)
    if model.fingerprint != plan.fingerprint:
        raise BulkError(f"{plan.model} is another model here ({model.fingerprint}) than planned ({plan.fingerprint})")
    return partial(embed_shard, model, plan)


def _entry(file: Found, digest: str, content: Content) -> Entry:
    item = hashlib.sha256(file.path.encode()).hexdigest()[:24]
    return Entry(
        id=item,
        item=item,
        path=file.path,
        modality=file.modality,
        digest=digest,
        size=file.size,
        mtime=file.mtime,
        caption=file.caption or content.caption,
        duration=content.duration,
        tags=file.tags or (),
        added=time.time_ns(),
    )


def _planned(folder: Path, out: Path, model: Encoder, name: str, format: str, shard_size: int) -> Plan:
    """The plan in `out`, made if there is none."""
    asked = {
        "source": str(folder),
        "fingerprint": model.fingerprint,
        "format": format,
        "shard_size": shard_size,
    }
    values = kept_plan(out, asked, lambda: asdict(_make_plan(folder, out, model, name, format, shard_size)))
    try:
        return Plan(**values)
    except TypeError as error:
        raise damaged_plan(out, error) from error


def _make_plan(folder: Path, out: Path, model: Encoder, name: str, format: str, shard_size: int) -> Plan:
    """The plan; the list of files is written here, before it."""
    if not folder.is_dir():
        raise BulkError(f"{folder} is not a folder that can be embedded")
    if shard_size < 1:
        raise BulkError(f"a shard has at least 1 file, not {shard_size}")
    found = walk(folder, kinds_for(model.modalities), out)
    if not found.found and not found.problems:  # a plan would leave out all that comes later
        raise BulkError(f"{folder} holds no file of a kind that this model takes")
    files = [found.found[path] for path in sorted(found.found)]
    with open(out / _ITEMS, "w", encoding="utf-8") as lines:
        for file in files:
            lines.write(json.dumps(asdict(file), ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())
    return Plan(
        source=str(folder),
        model=lasting_name(name),
        fingerprint=model.fingerprint,
        dim=model.dim,
        items=len(files),
        shard_size=shard_size,
        format=format,
        problems=found.problems,
    )


def _shards(out: Path, plan: Plan) -> Iterator[tuple[int, list[Found]]]:
    with open(out / _ITEMS, encoding="utf-8") as lines:
        for number in range(plan.shards):
            rows = [json.loads(line) for line in islice(lines, plan.shard_size)]
            yield number, [Found(**{**row, "tags": tuple(row["tags"] or ())}) for row in rows]
