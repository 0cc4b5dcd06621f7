"""Which videos there are, and which parts of them are wanted: a folder, or the metadata of HD-VILA-100M."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from one_peace.errors import InputError
from one_peace.modalities import get_modality

_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d)(?:\.(\d+))?")


@dataclass(frozen=True)
class Video:
    """A video: `key` begins the names of its clips, `path` is "" if there is no file.

    `spans` are its clips in seconds, as (start, end); None: to be found by scene cuts. `url` is where it came from.
    """

    key: str
    path: str
    spans: tuple[tuple[float, float], ...] | None = None
    url: str = ""


def videos_in(folder: Path, skip: Path) -> list[Video]:
    """All video files below `folder`, sorted by path, without hidden ones and those in `skip`.

    Raises:
        InputError: it is no folder, or holds no video.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "is no folder")
    paths = list(_files(folder, skip))
    if not paths:
        raise InputError(str(folder), f"holds no video ({get_modality('video').endings})")
    keys = [re.sub(r"[^\w\-]+", "_", path.relative_to(folder).with_suffix("").as_posix()) for path in paths]
    often = Counter(keys)
    seen: Counter[str] = Counter()
    videos = []
    for key, path in zip(keys, paths, strict=True):
        seen[key] += 1
        videos.append(Video(f"{key}~{seen[key]}" if often[key] > 1 else key, str(path)))
    return videos


def videos_of_hdvila(metadata: Sequence[Path], folder: Path, skip: Path) -> list[Video]:
    """The videos of HD-VILA's files `hdvila_part*.jsonl`, in their order, each with its clips.

    A line is `{"video_id": "...", "url": "...", "clip": [{"span": ["00:00:17.759", "00:00:23.279"]}, ...]}`. The video
    itself is looked for anywhere below `folder`, by its id for a name.

    Raises:
        InputError: a file that is not there, a line that is not like this, or a video that comes twice.
    """
    files = {path.stem: path for path in reversed(list(_files(folder, skip)))} if folder.is_dir() else {}
    videos: dict[str, Video] = {}
    for file in metadata:
        for place, record in _records(file):
            try:
                name, url = str(record["video_id"]), str(record.get("url", ""))
                spans = tuple((seconds(clip["span"][0]), seconds(clip["span"][1])) for clip in record["clip"])
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                raise InputError(
                    place, f"is no line of HD-VILA's metadata ({type(error).__name__}: {error})"
                ) from error
            if name in videos:
                raise InputError(place, f"the video {name} comes twice")
            path = files.get(name)
            videos[name] = Video(re.sub(r"[^\w\-]+", "_", name), "" if path is None else str(path), spans, url)
    if not videos:
        raise InputError(", ".join(map(str, metadata)), "names no video")
    return list(videos.values())


def seconds(time: str) -> float:
    """`hh:mm:ss.mmm` in seconds. What follows the point is a number of milliseconds, as published: .5 is 5 of them.

    Raises:
        ValueError: not such a time.
    """
    found = _TIME.fullmatch(time.strip())
    if found is None:
        raise ValueError(f"{time!r} is no time; expected hh:mm:ss.mmm")
    hours, minutes, whole, milliseconds = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + int(whole) + int(milliseconds or 0) / 1000


def _files(folder: Path, skip: Path) -> Iterable[Path]:
    endings = set(get_modality("video").endings.split())
    skipped = skip.absolute()
    for place, folders, names in os.walk(folder.absolute()):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(place, f) != skipped)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in endings:
                yield Path(place, name)


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", json.loads(line)
    except OSError as error:
        raise InputError(str(file), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(str(file), f"is no JSON lines: {error}") from error
