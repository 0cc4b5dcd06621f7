"""Captions of pictures and sounds: COCO and Flickr30k (Karpathy's splits), AudioCaps, Clotho, MACS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import yaml

from one_peace.data.published.conversion import Converted, SplitRow, find, need, read_csv, read_json
from one_peace.data.published.durations import seconds
from one_peace.errors import InputError

KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def coco(source: Path) -> Converted:
    """`dataset_coco.json` and the folders `train2014`, `val2014`."""
    return _karpathy(source, "dataset_coco.json")


def coco_captions(source: Path) -> Converted:
    """The same files, to describe pictures: a row per caption in `train`, a row per picture with all its captions,
    joined by `&&`, in `train_references`, `val` and `test`."""
    made = _karpathy(source, "dataset_coco.json")
    texts = {split: made.files.get(f"{split}_texts.json", {}) for split in ("val", "test")}

    def rows() -> Iterator[SplitRow]:
        grouped: dict[str, list[SplitRow]] = defaultdict(list)
        for number, row in enumerate(made.rows):
            if row.split == "train":
                grouped[row.values["image_id"]].append(row)
                yield SplitRow("train", {"uniq_id": str(number), **row.values}, row.media)
            else:
                captions = texts[row.split][row.values["image_id"]]
                yield SplitRow(row.split, {**row.values, "caption": _joined(captions)}, row.media)
        for several in grouped.values():
            captions = [row.values["caption"] for row in several]
            yield SplitRow("train_references", {**several[0].values, "caption": _joined(captions)}, several[0].media)

    return Converted(rows())


def _joined(captions: list[str]) -> str:
    return "&&".join(caption.replace("&&", "and") for caption in captions)


def flickr30k(source: Path) -> Converted:
    """`dataset_flickr30k.json` and the pictures, in `source` or a folder `flickr30k-images` or `images`."""
    return _karpathy(source, "dataset_flickr30k.json")


def _karpathy(source: Path, name: str) -> Converted:
    """A row per caption to train on, a row per picture to evaluate on; texts by picture in `SPLIT_texts.json`."""
    records = need(read_json(source, name), "images", name)
    folders = ["", "images/", "flickr30k-images/"]
    first = [need(record, "filename", name) for record in records[:1]]
    folder = next((f for f in folders for file in first if (source / f / file).is_file()), "")
    texts: dict[str, dict[str, list[str]]] = defaultdict(dict)
    rows = []
    for record in records:
        split = KARPATHY.get(need(record, "split", name))
        if split is None:
            raise InputError(name, f"picture {record.get('filename')} is of an unknown split, {record['split']!r}")
        file = need(record, "filename", name)
        picture = f"{record['filepath']}/{file}" if "filepath" in record else f"{folder}{file}"
        number = str(record.get("cocoid", need(record, "imgid", name)))
        captions = [str(need(sentence, "raw", name)).strip() for sentence in need(record, "sentences", name)]
        texts[split][number] = captions
        for caption in captions if split == "train" else captions[:1]:
            rows.append(SplitRow(split, {"image_id": number, "image": picture, "caption": caption}, ("image",)))
    return Converted(rows, {f"{split}_texts.json": kept for split, kept in texts.items() if split != "train"})


def audiocaps(source: Path) -> Converted:
    """`train.csv`, `val.csv`, `test.csv` and sounds named by their YouTube id, with or without the start, in `SPLIT/`,
    `audio/` or `source`. Captions of one clip that is to be evaluated become one row."""

    def clip(split: str, row: dict[str, str]) -> str:
        stem = need(row, "youtube_id", "AudioCaps")
        names = [f"{s}.{e}" for s in (stem, f"Y{stem}", f"{stem}_{row.get('start_time', 0)}") for e in ("wav", "flac")]
        places = [f"{folder}{name}" for folder in (f"{split}/", "audio/", f"audio/{split}/", "") for name in names]
        return next((place for place in places if (source / place).is_file()), places[0])

    def captions(split: str) -> Iterator[tuple[str, str]]:
        for row in read_csv(source, f"{split}.csv"):
            yield clip(split, row), need(row, "caption", "AudioCaps")

    return _sounds(source, {split: _grouped(captions(split)) for split in ("train", "val", "test")})


def clotho(source: Path) -> Converted:
    """`clotho_captions_{development,validation,evaluation}.csv` and a folder of sounds for each."""
    splits = {"train": "development", "val": "validation", "test": "evaluation"}
    grouped: dict[str, dict[str, list[str]]] = {}
    for split, name in splits.items():
        grouped[split] = {}
        for row in read_csv(source, f"clotho_captions_{name}.csv"):
            captions = [row[key] for key in sorted(row) if key.startswith("caption_") and row[key].strip()]
            grouped[split][f"{name}/{need(row, 'file_name', 'Clotho')}"] = captions
    return _sounds(source, grouped)


def macs(source: Path) -> Converted:
    """`MACS.yaml` and the sounds of TAU Urban Acoustic Scenes 2019 in `audio/` or `source`: all to train on, with
    AudioCaps and Clotho."""
    path = find(source, "MACS.yaml")
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"is no YAML: {' '.join(str(error).split())}") from error
    grouped: dict[str, list[str]] = {}
    for record in need(listed, "files", path.name):
        name = need(record, "filename", path.name)
        sound = next((place for place in (f"audio/{name}", name) if (source / place).is_file()), f"audio/{name}")
        annotations = need(record, "annotations", f"{path.name}, {name}")
        grouped[sound] = [str(need(one, "sentence", f"{path.name}, {name}")).strip() for one in annotations]
    return _sounds(source, {"train": grouped})


def _grouped(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for sound, caption in pairs:
        grouped[sound].append(caption.strip())
    return grouped


def _sounds(source: Path, grouped: dict[str, dict[str, list[str]]]) -> Converted:
    def rows() -> Iterator[SplitRow]:
        for split, sounds in grouped.items():
            for sound, captions in sounds.items():
                duration = seconds(source / sound)
                for number, caption in enumerate(captions if split == "train" else captions[:1]):
                    key = f"{sound}#{number}" if split == "train" else sound
                    values = {"uniq_id": key, "audio": sound, "text": caption, "duration": duration}
                    yield SplitRow(split, values, ("audio",))

    return Converted(rows(), {f"{split}_texts.json": kept for split, kept in grouped.items() if split != "train"})
