"""Videos to webdataset shards of clips, in runs that may be killed and go on, on one machine or many.

`OUT/clips-000012.tar` holds `KEY.mp4`, `KEY.jpg`, `KEY.flac`, `KEY.depth.png`, `KEY.normals.png`, `KEY.txt` and
`KEY.json`; beside the shards are `manifest.jsonl` (every clip), `dropped.jsonl` (what is not there, and why),
`report.json` and `sizes.json` (how many clips a shard has, for training).
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from one_peace.atomic_files import replacing, write_whole
from one_peace.data.bulk_work import BulkError, Load, Notes, kept_plan, work_here
from one_peace.data.clip_shards.annotators import FROM_DEPTH, MapMaker, find_function, is_function, load_function
from one_peace.data.clip_shards.captions import CaptionTable
from one_peace.data.clip_shards.cutting import ClipMaker, ClipRules, Dropped
from one_peace.data.clip_shards.videos import Video, videos_in, videos_of_hdvila
from one_peace.data.lock import writer_lock
from one_peace.data.shards import SIZES
from one_peace.errors import InputError
from one_peace.readable_json import readable_json

_VIDEOS = "videos.jsonl"

Runner: TypeAlias = Callable[[Load, Iterable[tuple[int, Any]], int], Iterator[Any]]
"""Does shards with a number of workers: `work_here`, `work_on_ray`."""


@dataclass(frozen=True)
class ClipSettings:
    """What to make of videos.

    * `metadata`: files of HD-VILA, which say which parts of which videos; by default scene cuts of all videos.
    * `captions`: a table (`CaptionTable`); `captioner`: a function (`Captioner`) for clips that the table has none of.
      With either, clips without a caption are dropped; with none, nothing has one.
    * `depth`: a function (`Estimator`) or a folder of maps; with `disparity`, those are disparities. `normals`: the
      same, or "depth": computed from it.

    Functions are named `FILE.py:NAME` or `MODULE:NAME`.
    """

    rules: ClipRules = field(default_factory=ClipRules)
    metadata: tuple[str, ...] = ()
    captions: str = ""
    captioner: str = ""
    depth: str = ""
    normals: str = ""
    disparity: bool = False
    videos_per_shard: int = 20

    def check(self) -> None:
        """Raises `InputError` or `ValueError` for what cannot work, before any work is done."""
        if self.videos_per_shard < 1:
            raise ValueError(f"a shard has at least 1 video, not {self.videos_per_shard}")
        if self.normals == FROM_DEPTH and not self.depth:
            raise ValueError("normals come from depth, but no depth is given")
        for what, given in (("depth", self.depth), ("normals", self.normals)):
            if given and given != FROM_DEPTH and not is_function(given) and not Path(given).is_dir():
                raise InputError(given, f"is neither a folder of {what} maps nor a function (FILE.py:NAME)")
        functions = [self.captioner, *(given for given in (self.depth, self.normals) if is_function(given))]
        for given in filter(None, functions):
            find_function(given)
        if self.captions:
            CaptionTable(Path(self.captions))

    def maker(self) -> ClipMaker:
        """What makes the clips, with all functions loaded."""
        return ClipMaker(
            self.rules,
            MapMaker(self.depth, self.normals, self.disparity),
            CaptionTable(Path(self.captions)) if self.captions else None,
            load_function(self.captioner) if self.captioner else None,
        )


@dataclass(frozen=True)
class PreparationReport:
    """What is in the output when a run has ended; `shards` and `seconds` are of this run.

    `members` counts files by their endings, `dropped` videos and clips that are not there by reason, `lacking` what
    clips that are there do not have, by kind and reason.
    """

    videos: int
    clips: int
    clip_seconds: float
    members: dict[str, int]
    dropped: dict[str, int]
    lacking: dict[str, int]
    shards: int
    seconds: float

    def __str__(self) -> str:
        lines = [f"{self.clips} clips, {self.clip_seconds / 60:.1f} min, of {self.videos} videos"]
        lines += [f"  {ending}: {count}" for ending, count in self.members.items()]
        lines += [f"dropped, {reason}: {count}" for reason, count in self.dropped.items()]
        lines += [f"without {what}: {count}" for what, count in self.lacking.items()]
        return "\n".join([*lines, f"{self.shards} shards in {self.seconds:.1f} s"])


def prepare_clips(
    folder: Path,
    out: Path,
    settings: ClipSettings,
    *,
    workers: int = 1,
    run: Runner | None = None,
    track: Callable[[Iterator[Any], int], Iterable[Any]] = lambda shards, total: shards,
) -> PreparationReport:
    """Prepares all videos below `folder`, or goes on with what was begun in `out`.

    Raises:
        BulkError: `out` was begun with another folder or other settings; a worker was killed.
        FolderBusyError: another process is writing to `out`.
        InputError: no videos, or something of the settings that is not there.
    """
    started = time.perf_counter()
    settings.check()
    out.mkdir(parents=True, exist_ok=True)
    with writer_lock(out / "writer.lock"):
        folder = folder.expanduser().absolute()
        asked = json.loads(json.dumps({"source": str(folder), **asdict(settings)}))
        plan = kept_plan(out, asked, lambda: {**asked, "videos": _list_videos(folder, out, settings)})
        shards = -(-plan["videos"] // settings.videos_per_shard)
        notes = Notes(out, shards)
        done = notes.done()
        todo = ((number, videos) for number, videos in _shards(out, shards, settings) if number not in done)
        load = partial(load_worker, settings, out)
        if run is None and workers == 1:
            work = load("cpu", 0)
            made: Iterator[Any] = (work(*task) for task in todo)
        else:
            made = (run or work_here)(load, todo, workers)
        for number, note in track(made, shards - len(done)):
            notes.write(number, note)
        return _summary(out, notes, plan["videos"], shards - len(done), started)


def load_worker(
    settings: ClipSettings, out: Path, device: str, threads: int
) -> Callable[[int, Sequence[Video]], tuple[int, dict[str, Any]]]:
    """As `bulk_work.Load`; functions of a user's own choose their device themselves."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    return partial(write_shard, settings.maker(), out)


def write_shard(maker: ClipMaker, out: Path, number: int, videos: Sequence[Video]) -> tuple[int, dict[str, Any]]:
    """The clips of some videos as a shard, whole or not at all -> its number and its note."""
    clips: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    target = out / _name(number)
    # Of several machines, two may do the same shard, if one seemed dead.
    with replacing(target) as partial_file, tarfile.open(partial_file, "w") as archive:
        for video in videos:
            for made in maker(video):
                if isinstance(made, Dropped):
                    dropped.append(asdict(made))
                    continue
                info, files = made
                for ending, content in files.items():
                    header = tarfile.TarInfo(f"{info.key}.{ending}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
                clips.append({**asdict(info), "shard": target.name})
    return number, {"clips": clips, "dropped": dropped}


def _name(number: int) -> str:
    return f"clips-{number:06}.tar"


def _list_videos(folder: Path, out: Path, settings: ClipSettings) -> int:
    """Writes down the videos; how many there are."""
    for old in out.glob("clips-*.tar"):
        raise BulkError(f"{out} holds {old.name} but no plan; choose another folder for the output")
    metadata = [Path(file) for file in settings.metadata]
    videos = videos_of_hdvila(metadata, folder, out) if metadata else videos_in(folder, out)
    lines = [readable_json(asdict(video)) for video in videos]
    write_whole(out / _VIDEOS, ("\n".join(lines) + "\n").encode())
    return len(videos)


def _shards(out: Path, shards: int, settings: ClipSettings) -> Iterator[tuple[int, list[Video]]]:
    with open(out / _VIDEOS, encoding="utf-8") as lines:
        for number in range(shards):
            rows = [json.loads(line) for line in islice(lines, settings.videos_per_shard)]
            yield number, [Video(**{**row, "spans": _spans(row["spans"])}) for row in rows]


def _spans(spans: list[list[float]] | None) -> tuple[tuple[float, float], ...] | None:
    return None if spans is None else tuple((start, end) for start, end in spans)


def _summary(out: Path, notes: Notes, videos: int, shards: int, started: float) -> PreparationReport:
    """Writes what lies beside the shards, from their notes."""
    sizes: dict[str, int] = {}
    clips: list[Mapping[str, Any]] = []
    dropped: list[Mapping[str, Any]] = []
    for number, note in zip(sorted(notes.done()), notes.read(), strict=True):
        # An upper bound for partners that some clips lack; training over a network wants to know before it fetches.
        sizes[_name(number)] = len(note["clips"])
        clips += note["clips"]
        dropped += note["dropped"]
    members = Counter(member for clip in clips for member in clip["members"])
    lacking = Counter(f"{kind}: {why}" for clip in clips for kind, why in clip["lacking"].items())
    reasons = Counter(row["reason"] for row in dropped)
    report = PreparationReport(
        videos=videos,
        clips=len(clips),
        clip_seconds=sum(clip["end"] - clip["start"] for clip in clips),
        members=dict(members.most_common()),
        dropped=dict(reasons.most_common()),
        lacking=dict(lacking.most_common()),
        shards=shards,
        seconds=time.perf_counter() - started,
    )
    for name, rows in (("manifest.jsonl", clips), ("dropped.jsonl", dropped)):
        write_whole(out / name, "".join(readable_json(row) + "\n" for row in rows).encode())
    write_whole(out / SIZES, json.dumps(sizes, indent=1).encode())
    write_whole(out / "report.json", json.dumps(asdict(report), indent=1).encode())
    return report
