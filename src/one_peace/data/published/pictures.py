"""Pictures with boxes, statements or classes: RefCOCO and its kin, NLVR2, ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from one_peace.data.published.conversion import (
    Converted,
    SplitRow,
    find,
    need,
    one_line,
    read_json,
    read_json_lines,
    read_pickle,
)
from one_peace.errors import InputError

PICTURES = (".jpeg", ".jpg", ".png", ".webp")


def refcoco(source: Path) -> Converted:
    """`refs(unc).p` (RefCOCO and RefCOCO+) or `refs(umd).p` (RefCOCOg), `instances.json` and COCO's `train2014`."""
    path = find(source, "refs(unc).p", "refs(umd).p", "refs(google).p")
    references = read_pickle(path, "list of references")
    instances = read_json(source, "instances.json")
    boxes = _by_id(instances, "annotations", "bbox")
    names = _by_id(instances, "images", "file_name")

    def rows() -> Iterator[SplitRow]:
        for reference in references:
            annotation = need(reference, "ann_id", path.name)
            if annotation not in boxes:
                raise InputError(
                    str(path), f"reference {reference.get('ref_id')} has no annotation {annotation} in instances.json"
                )
            x, y, width, height = boxes[annotation]
            box = ",".join(f"{v:g}" for v in (x, y, x + width, y + height))
            number = need(reference, "image_id", path.name)
            if number not in names:
                raise InputError(str(path), f"reference {reference.get('ref_id')} is of an unknown picture, {number}")
            for sentence in need(reference, "sentences", path.name):
                values = {
                    "uniq_id": str(need(sentence, "sent_id", path.name)),
                    "image": f"train2014/{names[number]}",
                    "text": one_line(need(sentence, "sent", path.name)),
                    "region_coord": box,
                }
                yield SplitRow(need(reference, "split", path.name), values, ("image",))

    return Converted(rows())


def _by_id(instances: Any, kind: str, field: str) -> dict[Any, Any]:
    place = "instances.json"
    return {need(one, "id", place): need(one, field, place) for one in need(instances, kind, place)}


def nlvr2(source: Path) -> Converted:
    """`train.json`, `dev.json`, `test1.json` (an object per line) and the pictures `SPLIT/[FOLDER/]ID-img{0,1}.png`."""

    def rows() -> Iterator[SplitRow]:
        for split in ("train", "dev", "test1"):
            path = find(source, f"{split}.json", f"{split}.jsonl")
            for place, record in read_json_lines(path):
                identifier = str(need(record, "identifier", place))
                stem = identifier.rpartition("-")[0]
                inside = f"{record['directory']}/" if "directory" in record else ""
                folders = [f"{base}{split}/{middle}" for base in ("images/", "") for middle in (inside, "")]
                folder = next((f for f in folders if (source / f"{f}{stem}-img0.png").is_file()), folders[0])
                values = {
                    "uniq_id": identifier,
                    "text": one_line(need(record, "sentence", place)),
                    "image1": f"{folder}{stem}-img0.png",
                    "image2": f"{folder}{stem}-img1.png",
                    "label": str(need(record, "label", place)),
                }
                yield SplitRow(split, values, ("image1", "image2"))

    return Converted(rows())


def imagenet(source: Path) -> Converted:
    """The folders `train` and `val`, each with a folder of pictures per class; `labels.json` has the classes.

    The published archive of `val` has no such folders: it is refused until its pictures are sorted into them.
    """
    splits = [split for split in ("train", "val") if (source / split).is_dir()]
    if not splits:
        raise InputError(str(source), "has neither a folder train nor a folder val")
    for split in splits:
        inside = list((source / split).iterdir())
        if any(_is_picture(path) for path in inside) and not any(path.is_dir() for path in inside):
            problem = "holds pictures but no folder per class; move each picture into that of its class"
            raise InputError(str(source / split), problem)
    classes = sorted({folder.name for split in splits for folder in (source / split).iterdir() if folder.is_dir()})

    def rows() -> Iterator[SplitRow]:
        for split in splits:
            for name in classes:
                folder = source / split / name
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if _is_picture(path):
                        place = f"{name}/{path.name}"
                        values = {"uniq_id": place, "image": f"{split}/{place}", "label": name}
                        yield SplitRow(split, values, ("image",))

    return Converted(rows(), {"labels.json": classes})


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES
