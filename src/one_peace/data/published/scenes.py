"""Scenes by their depth: SUN RGB-D (SUN-D) and the NYU part of it (NYU-D)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.atomic_files import write_whole
from one_peace.data.published.conversion import Converted, SplitRow, find
from one_peace.data.published.nyu_depth import FARTHEST, FILE, LabeledScenes
from one_peace.errors import InputError
from one_peace.media.maps import read_map, write_depth_png

SUN_CLASSES = (
    "bathroom",
    "bedroom",
    "classroom",
    "computer_room",
    "conference_room",
    "corridor",
    "dining_area",
    "dining_room",
    "discussion_area",
    "furniture_store",
    "home_office",
    "kitchen",
    "lab",
    "lecture_theatre",
    "library",
    "living_room",
    "office",
    "rest_space",
    "study_space",
)
"""The 19 with more than 80 pictures, which are those that are reported."""

NYU_CLASSES = (
    "bathroom",
    "bedroom",
    "bookstore",
    "classroom",
    "dining_room",
    "home_office",
    "kitchen",
    "living_room",
    "office",
)
"""The 9 that are reported; all others are a tenth."""

OTHERS = "others"


def sun_d(source: Path) -> Converted:
    """The folders `kv1`, `kv2`, `realsense` and `xtion` of SUNRGBD (`scene.txt`, `depth_bfx/` or `depth/`, and `image/`
    in each of theirs) and the toolbox's `allsplit.mat`. Depth is rewritten to plain millimetres, in `out/depth/`."""
    split = _read_mat(find(source, "allsplit.mat"), ("alltrain", "alltest"))
    labels = {name: name.replace("_", " ") for name in SUN_CLASSES}
    listed = [
        (name, _below_sun(str(place)))
        for name, key in (("train", "alltrain"), ("test", "alltest"))
        for place in np.atleast_1d(split[key])
    ]
    return _scenes(source, _root(source), listed, labels, None)


def nyu_d(source: Path) -> Converted:
    """The data set's own `splits.mat` and beside it `nyu_depth_v2_labeled.mat` (needs h5py), or in place of the latter
    `kv1/NYUdata/NYU0001` to `NYU1449` as SUN RGB-D has them (`sun_d`). Depth becomes millimetres, in `out/depth/`."""
    splits = find(source, "splits.mat")
    split = _read_mat(splits, ("trainNdxs", "testNdxs"))
    labels = {name: name.replace("_", " ") for name in [*NYU_CLASSES, OTHERS]}
    numbers = [
        (name, int(number))
        for name, key in (("train", "trainNdxs"), ("test", "testNdxs"))
        for number in np.atleast_1d(split[key])
    ]
    if (labeled := splits.with_name(FILE)).is_file():
        return _labeled(LabeledScenes(labeled), numbers, labels)
    listed = [(name, f"kv1/NYUdata/NYU{number:04}") for name, number in numbers]
    return _scenes(source, _root(source), listed, labels, OTHERS)


def _labeled(scenes: LabeledScenes, numbers: list[tuple[str, int]], labels: Mapping[str, str]) -> Converted:
    def rows() -> Iterator[SplitRow]:
        for split, number in numbers:
            kind = scenes.kind(number)
            values = {"uniq_id": f"NYU{number:04}", "label": labels[kind if kind in labels else OTHERS]}
            yield SplitRow(split, values, (), scenes.writers(number))

    return Converted(rows(), {"labels.json": list(labels.values())})


def _scenes(
    source: Path, root: str, listed: list[tuple[str, str]], labels: Mapping[str, str], others: str | None
) -> Converted:
    """Rows with depth, picture and label; scenes of other names are `others`, or left out where that is None."""

    def rows() -> Iterator[SplitRow]:
        for split, place in listed:
            folder = f"{root}{place}"
            try:
                scene = (source / folder / "scene.txt").read_text(encoding="utf-8").strip()
            except OSError:  # the row is reported as missing
                scene = next(iter(labels))
            if scene not in labels and others is None:
                continue
            depth = _first(source, folder, ("depth_bfx", "depth"), "*.png")
            picture = _first(source, folder, ("image",), "*.jpg")
            label = labels[scene if scene in labels else str(others)]
            values = {"uniq_id": place, "depth": depth, "image": picture, "label": label}
            yield SplitRow(split, values, ("depth", "image"))

    return Converted(rows(), {"labels.json": list(labels.values())}, {"depth": rotate_back})


def rotate_back(stored: Path, target: Path) -> None:
    """The depth of SUN RGB-D, whose bits are rotated by three to the left, as millimetres of at most 8 m.

    Raises:
        InputError: it is no 16-bit picture.
    """
    raw = read_map(stored, ())
    if raw.values.dtype != np.uint16 or raw.values.ndim != 2:
        raise InputError(str(stored), "is no depth of SUN RGB-D: it is not a grey picture of 16 bits")
    values = raw.values
    metres = np.minimum(((values >> 3) | (values << 13)) / 1000, FARTHEST)
    content = io.BytesIO()
    write_depth_png(metres, content)
    write_whole(target, content.getvalue())


def _root(source: Path) -> str:
    """What stands before `kv1`, `kv2`, ... in paths from the source."""
    return "SUNRGBD/" if (source / "SUNRGBD").is_dir() else ""


def _below_sun(place: str) -> str:
    """`/n/fs/sun3d/data/SUNRGBD/kv2/...` -> `kv2/...`."""
    return place.strip().replace("\\", "/").rpartition("SUNRGBD/")[2].strip("/")


def _first(source: Path, folder: str, names: tuple[str, ...], pattern: str) -> str:
    for name in names:
        if found := sorted((source / folder / name).glob(pattern)):
            return found[0].relative_to(source).as_posix()
    return f"{folder}/{names[0]}/{pattern}"


def _read_mat(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises many types; HDF5 files are a NotImplementedError
        raise InputError(str(path), f"is no MATLAB file that can be read: {error}") from error
    for key in keys:
        if key not in content:
            raise InputError(str(path), f"has no {key}; it has {', '.join(k for k in content if k[:2] != '__')}")
    return content
