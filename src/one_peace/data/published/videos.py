"""Captions of videos: MSR-VTT, MSVD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from one_peace.data.published.conversion import (
    Converted,
    SplitRow,
    find,
    find_any,
    need,
    read_csv,
    read_json,
    read_pickle,
)
from one_peace.errors import InputError

SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
ENDINGS = (".mp4", ".avi", ".webm", ".mkv")


def msrvtt(source: Path) -> Converted:
    """`MSRVTT_data.json`, or `train_val_videodatainfo.json` and `test_videodatainfo.json`, and the videos `videoN.mp4`
    in `videos/all/`, `MSRVTT_Videos/`, `TrainValVideo/`, `TestVideo/`, `videos/` or `source`.

    Where `MSRVTT_JSFUSION_test.csv` is, the split is the one that most report (1k-A): its 1000 videos with a caption
    each to evaluate on, those of `MSRVTT_train.9k.csv`, or else all others, to train on.
    """
    splits: dict[str, str] = {}
    captions: dict[str, list[str]] = defaultdict(list)
    for name in _infos(source):
        record = read_json(source, name)
        for video in need(record, "videos", name):
            split = str(need(video, "split", name))
            if split not in SPLITS:
                raise InputError(name, f"video {video.get('video_id')} is of an unknown split, {split!r}")
            splits[str(need(video, "video_id", name))] = SPLITS[split]
        for sentence in need(record, "sentences", name):
            captions[str(need(sentence, "video_id", name))].append(str(need(sentence, "caption", name)).strip())
    chosen, train_list = "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv"
    if find_any(source, chosen) is not None:
        rows = read_csv(source, chosen)
        test = {need(row, "video_id", chosen): [need(row, "sentence", chosen).strip()] for row in rows}
        train = [video for video in splits if video not in test]
        if find_any(source, train_list) is not None:
            train = [need(row, "video_id", train_list) for row in read_csv(source, train_list)]
        splits = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
        captions = defaultdict(list, {**captions, **test})
    folders = ("videos/all/", "MSRVTT_Videos/", "TrainValVideo/", "TestVideo/", "videos/", "")
    return _videos(source, splits, captions, folders, ENDINGS)


def _infos(source: Path) -> tuple[str, ...]:
    """The files that list videos and captions."""
    if find_any(source, "MSRVTT_data.json") is not None:
        return ("MSRVTT_data.json",)
    find(source, "train_val_videodatainfo.json", "MSRVTT_data.json")
    return ("train_val_videodatainfo.json", "test_videodatainfo.json")


def msvd(source: Path) -> Converted:
    """`train_list.txt`, `val_list.txt` and `test_list.txt` (a video's name on every line), the captions in
    `raw-captions.pkl` (lists of words by video) or `AllVideoDescriptions.txt` (`NAME CAPTION` on every line), and the
    videos in `YouTubeClips/`, `videos/` or `source`."""
    splits: dict[str, str] = {}
    for split in ("train", "val", "test"):
        names = find(source, f"{split}_list.txt").read_text(encoding="utf-8").split()
        splits |= dict.fromkeys(names, split)
    return _videos(source, splits, _msvd_captions(source), ("YouTubeClips/", "videos/", ""), (".avi", *ENDINGS))


def _msvd_captions(source: Path) -> dict[str, list[str]]:
    path = find(source, "raw-captions.pkl", "AllVideoDescriptions.txt")
    captions: dict[str, list[str]] = defaultdict(list)
    if path.suffix == ".txt":
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            name, _, caption = line.strip().partition(" ")
            if caption and not name.startswith("#"):
                captions[name].append(caption.strip())
        return captions
    listed = read_pickle(path, "list of captions")
    if not isinstance(listed, dict):
        raise InputError(str(path), "is no plain list of captions: it has no names of videos")
    for name, sentences in listed.items():
        for words in sentences:
            captions[str(name)].append(words if isinstance(words, str) else " ".join(map(str, words)))
    return captions


def _videos(
    source: Path,
    splits: Mapping[str, str],
    captions: Mapping[str, list[str]],
    folders: tuple[str, ...],
    endings: tuple[str, ...],
) -> Converted:
    """A row per caption to train on, a row per video to evaluate on; texts by video in `SPLIT_texts.json`."""
    texts: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, split in splits.items():
        if not captions.get(name):
            raise InputError(str(source), f"the video {name} of the split {split} has no caption")
        if split != "train":
            texts[split][name] = captions[name]

    def rows() -> Iterator[SplitRow]:
        for name, split in splits.items():
            possible = [f"{folder}{name}{ending}" for folder in folders for ending in endings]
            video = next((place for place in possible if (source / place).is_file()), possible[0])
            for number, caption in enumerate(captions[name] if split == "train" else captions[name][:1]):
                key = f"{name}#{number}" if split == "train" else name
                yield SplitRow(split, {"uniq_id": key, "video": video, "text": caption}, ("video",))

    return Converted(rows(), {f"{split}_texts.json": kept for split, kept in texts.items()})
