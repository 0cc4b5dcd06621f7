"""Pictures with boxes, statements or classes: RefCOCO and its kin, NLVR2, ImageNet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow, find, need, one_line, read_json, read_pickle
from one_peace.errors import InputError

PICTURES = (".jpeg", ".jpg", ".png", ".webp")


def refcoco(source: Path) -> Converted:
    """`refs(unc).p` (RefCOCO and RefCOCO+) or `refs(umd).p` (RefCOCOg), `instances.json` and COCO's `train2014`."""
    path = find(source, "refs(unc).p", "refs(umd).p", "refs(google).p")
    references = read_pickle(path, "list of references")
    instances = read_json(source, "instances.json")
    boxes = {a["id"]: a["bbox"] for a in need(instances, "annotations", "instances.json")}
    names = {i["id"]: i["file_name"] for i in need(instances, "images", "instances.json")}

    def rows() -> Iterator[SplitRow]:
        for reference in references:
            annotation = need(reference, "ann_id", path.name)
            if annotation not in boxes:
                raise InputError(
                    str(path), f"reference {reference.get('ref_id')} has no annotation {annotation} in instances.json"
                )
            x, y, width, height = boxes[annotation]
            box = ",".join(f"{v:g}" for v in (x, y, x + width, y + height))
            for sentence in need(reference, "sentences", path.name):
                values = {
                    "uniq_id": str(sentence["sent_id"]),
                    "image": f"train2014/{names[reference['image_id']]}",
                    "text": one_line(sentence["sent"]),
                    "region_coord": box,
                }
                yield SplitRow(reference["split"], values, ("image",))

    return Converted(rows())


def nlvr2(source: Path) -> Converted:
    """`train.json`, `dev.json`, `test1.json` (an object per line) and the pictures `SPLIT/[FOLDER/]ID-img{0,1}.png`."""

    def rows() -> Iterator[SplitRow]:
        for split in ("train", "dev", "test1"):
            path = find(source, f"{split}.json", f"{split}.jsonl")
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}", f"is no JSON: {error}") from error
                identifier = need(record, "identifier", f"{path}, line {number}")
                stem = identifier.rpartition("-")[0]
                inside = f"{record['directory']}/" if "directory" in record else ""
                folders = [f"{base}{split}/{middle}" for base in ("images/", "") for middle in (inside, "")]
                folder = next((f for f in folders if (source / f"{f}{stem}-img0.png").is_file()), folders[0])
                values = {
                    "uniq_id": identifier,
                    "text": one_line(need(record, "sentence", f"{path}, line {number}")),
                    "image1": f"{folder}{stem}-img0.png",
                    "image2": f"{folder}{stem}-img1.png",
                    "label": str(need(record, "label", f"{path}, line {number}")),
                }
                yield SplitRow(split, values, ("image1", "image2"))

    return Converted(rows())


def imagenet(source: Path) -> Converted:
    """The folders `train` and `val`, each with a folder of pictures per class; `labels.json` has the classes."""
    splits = [split for split in ("train", "val") if (source / split).is_dir()]
    if not splits:
        raise InputError(str(source), "has neither a folder train nor a folder val")
    classes = sorted({folder.name for split in splits for folder in (source / split).iterdir() if folder.is_dir()})

    def rows() -> Iterator[SplitRow]:
        for split in splits:
            for name in classes:
                folder = source / split / name
                for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                    if path.suffix.lower() in PICTURES:
                        place = f"{split}/{name}/{path.name}"
                        yield SplitRow(split, {"uniq_id": path.stem, "image": place, "label": name}, ("image",))

    return Converted(rows(), {"labels.json": classes})
