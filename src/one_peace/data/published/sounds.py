"""Labels of sounds: ESC-50, FSD50K, VGGSound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow, need, read_csv
from one_peace.data.published.durations import seconds
from one_peace.errors import InputError


def esc50(source: Path) -> Converted:
    """`meta/esc50.csv` and `audio/`: one split, to be classified without training. `labels.json` has names by class,
    the column `fold` what each clip is evaluated with."""
    rows, labels = [], {}
    for row in read_csv(source, "esc50.csv", "meta/esc50.csv"):
        number, name = need(row, "target", "ESC-50"), need(row, "category", "ESC-50").replace("_", " ")
        labels[number] = [name]
        made = _row("esc50", source, f"audio/{need(row, 'filename', 'ESC-50')}", number)
        rows.append(dataclasses.replace(made, values={**made.values, "fold": need(row, "fold", "ESC-50")}))
    return Converted(rows, {"labels.json": dict(sorted(labels.items(), key=lambda item: int(item[0])))})


def fsd50k(source: Path) -> Converted:
    """`FSD50K.ground_truth/{dev,eval,vocabulary}.csv` and the folders of sounds: several labels each."""
    vocabulary = list(read_csv(source, "vocabulary.csv", columns=("index", "label", "mid")))
    numbers = {row["label"]: int(row["index"]) for row in vocabulary}

    def rows() -> Iterator[SplitRow]:
        for table, folder in (("dev", "FSD50K.dev_audio"), ("eval", "FSD50K.eval_audio")):
            for row in read_csv(source, f"{table}.csv"):
                place = f"FSD50K {table}.csv"
                names, file = need(row, "labels", place).split(","), need(row, "fname", place)
                unknown = [name for name in names if name not in numbers]
                if unknown:
                    raise InputError(f"{source}/{table}.csv", f"{unknown[0]!r} of {file} is not in vocabulary.csv")
                text = ",".join(str(numbers[name]) for name in names)
                yield _row(row.get("split", "test"), source, f"{folder}/{file}.wav", text)

    return Converted(rows(), {"labels.json": sorted(numbers, key=numbers.__getitem__)})


def vggsound(source: Path) -> Converted:
    """`vggsound.csv` (no header: YouTube id, start, label, split) and sounds `ID_START.wav`, START with six digits."""
    listed = list(read_csv(source, "vggsound.csv", columns=("video", "start", "label", "split")))
    labels = sorted({row["label"] for row in listed})
    numbers = {name: number for number, name in enumerate(labels)}

    def rows() -> Iterator[SplitRow]:
        for row in listed:
            name = f"{row['video']}_{int(row['start']):06d}"
            places = [
                f"{folder}{name}.{end}" for folder in ("audio/", "", f"{row['split']}/") for end in ("wav", "flac")
            ]
            sound = next((place for place in places if (source / place).is_file()), places[0])
            yield _row(row["split"].strip(), source, sound, str(numbers[row["label"]]))

    return Converted(rows(), {"labels.json": labels})


def _row(split: str, source: Path, sound: str, text: str) -> SplitRow:
    values = {"uniq_id": Path(sound).stem, "audio": sound, "text": text, "duration": seconds(source / sound)}
    return SplitRow(split, values, ("audio",))
