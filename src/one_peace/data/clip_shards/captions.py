"""What is said of clips: a table of captions, by clip or by video."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from one_peace.errors import InputError

IDS = ("video_id", "image_id", "image", "id", "key", "path", "file_name")  # the first that a row has
TEXTS = ("desc", "caption", "text")
KINDS = ("vision_captions", "audio_captions", "omni_captions")  # of one clip, as in VAST-27M; kept as they are


class CaptionTable:
    """Captions by the key of a clip (`video-0003`), or of a whole video for all its clips.

    A JSON list of objects (MiCo's annotations), JSON lines, CSV or TSV, with one of `IDS` and one of `TEXTS`, or
    captions by kind (`KINDS`). A text is a string or a list of them; rows of the same id add up.

    Raises:
        InputError: not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.captions: dict[str, dict[str, list[str]]] = {}
        for place, row in _rows(path):
            key = next((str(row[name]) for name in IDS if row.get(name) not in (None, "")), None)
            if key is None:
                raise InputError(place, f"has none of {', '.join(IDS)}")
            found = {"caption": row.get(next((name for name in TEXTS if name in row), ""))}
            found |= {kind: row.get(kind) for kind in KINDS}
            texts = {kind: _texts(value, place) for kind, value in found.items() if value not in (None, "", [])}
            if not texts:
                raise InputError(place, f"has none of {', '.join([*TEXTS, *KINDS])}")
            entry = self.captions.setdefault(key, {})
            for kind, values in texts.items():
                entry[kind] = entry.get(kind, []) + values

    def of(self, clip: str, video: str, path: str) -> dict[str, list[str]]:
        """Captions by kind, {} if there are none: of the clip by its key, or else of its video by key or file name, or
        by the file's own stem, with the clip's number or without. Names of files in several folders are ambiguous, so
        that keys go first."""
        file = Path(path)
        for key in (clip, video, path, file.name, f"{file.stem}{clip.removeprefix(video)}", file.stem):
            if key in self.captions:
                return self.captions[key]
        return {}


def _texts(value: Any, place: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise InputError(place, f"its captions are no texts: {str(value)[:80]}")
    return [" ".join(text.split()) for text in values if text.strip()]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix in (".csv", ".tsv"):
            lines = io.StringIO(text)
            rows: list[Any] = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(str(path), f"is no table of captions: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(str(path), "is no list of objects")
    for number, row in enumerate(rows, 1):
        yield f"{path}, entry {number}", row
