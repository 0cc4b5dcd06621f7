"""Each benchmark's own file formats, in miniature, through its converter and into the rows that tasks read."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from one_peace.data.published import BENCHMARKS, convert_benchmark
from one_peace.data.published.conversion import Converted, SplitRow, write_tables
from one_peace.data.published.ofa_tables import OFA_TABLES
from one_peace.data.published.sentences import GLUE
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError, MissingExtraError
from one_peace.modalities.depth import read_depth
from pair_files import write_csv, write_json


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(path)


def sound(path: Path, seconds: float = 1.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(int(8000 * seconds)), 8000)


def karpathy(root: Path, name: str, nested: bool) -> None:
    def image(number: int, split: str) -> dict[str, Any]:
        file = f"{number:04d}.jpg"
        picture(root / (f"val2014/{file}" if nested else file))
        sentences = [{"raw": f"caption {k} of\t{number}", "imgid": number} for k in range(5)]
        own = {"filepath": "val2014", "cocoid": 1000 + number} if nested else {}
        return {"filename": file, "imgid": number, "split": split, "sentences": sentences, **own}

    splits = ["train", "restval", "val", "test"] if nested else ["train", "val", "test"]
    write_json(root / f"dataset_{name}.json", {"images": [image(k, s) for k, s in enumerate(splits)]})


def make_coco(root: Path) -> None:
    karpathy(root, "coco", nested=True)


def make_flickr(root: Path) -> None:
    karpathy(root, "flickr30k", nested=False)


def make_audiocaps(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows = [["audiocap_id", "youtube_id", "start_time", "caption"]]
        rows += [[k, "abc", 30, f"a dog barks, take {k}"] for k in range(3)]
        write_csv(root / f"{split}.csv", rows)
        sound(root / f"{split}/abc_30.wav")


def make_clotho(root: Path) -> None:
    for name in ("development", "validation", "evaluation"):
        header = ["file_name", *(f"caption_{k}" for k in range(1, 6))]
        write_csv(
            root / f"clotho_captions_{name}.csv", [header, ["rain, on roof.wav", *(f"rain {k}" for k in range(5))]]
        )
        sound(root / f"{name}/rain, on roof.wav", 2)


def make_macs(root: Path) -> None:
    (root / "MACS.yaml").parent.mkdir(parents=True, exist_ok=True)
    annotations = [{"annotator_id": k, "sentence": f"people talk {k}", "tags": ["adults_talking"]} for k in range(2)]
    listed = {"files": [{"filename": "airport-1.wav", "annotations": annotations}]}
    (root / "MACS.yaml").write_text(yaml.safe_dump(listed))
    sound(root / "audio/airport-1.wav")


def make_esc50(root: Path) -> None:
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    rows = [["1-a.wav", 1, 0, "dog", True, "a", "A"], ["1-b.wav", 1, 36, "vacuum_cleaner", False, "b", "A"]]
    write_csv(root / "meta/esc50.csv", [header, *rows])
    for row in rows:
        sound(root / "audio" / row[0])


def make_fsd50k(root: Path) -> None:
    folder = root / "FSD50K.ground_truth"
    write_csv(folder / "vocabulary.csv", [[0, "Bark", "/m/1"], [1, "Dog", "/m/2"], [2, "Rain", "/m/3"]])
    write_csv(
        folder / "dev.csv",
        [["fname", "labels", "mids", "split"], [11, "Dog,Bark", "", "train"], [12, "Rain", "", "val"]],
    )
    write_csv(folder / "eval.csv", [["fname", "labels", "mids"], [13, "Rain,Dog", ""]])
    for name in ("dev_audio/11", "dev_audio/12", "eval_audio/13"):
        sound(root / f"FSD50K.{name}.wav")


def make_vggsound(root: Path) -> None:
    write_csv(root / "vggsound.csv", [["---abc", 20, "dog barking", "train"], ["xyz", 5, "playing harp", "test"]])
    sound(root / "---abc_000020.wav")
    sound(root / "xyz_000005.wav")


def make_vqa(root: Path) -> None:
    for split, image in (("train", 1), ("val", 2)):
        name = f"{split}2014"
        picture(root / name / f"COCO_{name}_{image:012d}.jpg")
        numbers = [10 * image + k for k in range(10)]
        questions = [{"question_id": n, "image_id": image, "question": "Is it\nred?"} for n in numbers]
        write_json(root / f"v2_OpenEnded_mscoco_{name}_questions.json", {"questions": questions})
        given = [{"answer": a} for a in ["Yes"] * 3 + ["a dog"] * 1 + ["maybe"] * 6]
        annotations = [{"question_id": n, "multiple_choice_answer": "yes", "answers": given} for n in numbers]
        write_json(root / f"v2_mscoco_{name}_annotations.json", {"annotations": annotations})


def make_avqa(root: Path) -> None:
    for split in ("train", "val"):
        record = {
            "id": 5,
            "video_name": "v_1",
            "question_text": "What is it?",
            "multi_choice": ["a", "b", "c", "d"],
            "answer": 2,
        }
        write_json(root / f"{split}_qa.json", [record])
    sound(root / "audio/v_1.wav")


def make_refcoco(root: Path) -> None:
    reference = {
        "ref_id": 1,
        "ann_id": 77,
        "image_id": 9,
        "split": "testA",
        "sentences": [{"sent_id": 3, "sent": "left man"}, {"sent_id": 4, "sent": "the man"}],
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "refs(unc).p").write_bytes(pickle.dumps([reference], protocol=0))
    instances = {
        "annotations": [{"id": 77, "bbox": [1.5, 2, 30, 20.25]}],
        "images": [{"id": 9, "file_name": "COCO_train2014_9.jpg"}],
    }
    write_json(root / "instances.json", instances)
    picture(root / "train2014/COCO_train2014_9.jpg")


def make_nlvr2(root: Path) -> None:
    for split in ("train", "dev", "test1"):
        own = {"directory": 7} if split == "train" else {}
        record = {"identifier": f"{split}-12-0-1", "sentence": "Both are dogs.", "label": "True", **own}
        (root / f"{split}.json").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.json").write_text(json.dumps(record) + "\n")
        for k in (0, 1):
            picture(root / f"images/{split}/{'7/' if own else ''}{split}-12-0-img{k}.png")


def make_imagenet(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            picture(root / split / name / f"{name}_1.JPEG")
            (root / split / name / "notes.txt").write_text("no picture")


def make_msrvtt(root: Path) -> None:
    names = {"video0": "train", "video1": "validate", "video2": "test"}
    videos = [{"video_id": name, "split": split} for name, split in names.items()]
    sentences = [{"video_id": name, "caption": f"caption {k} of {name}"} for k in range(2) for name in names]
    write_json(root / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    for name in names:
        film(root / f"videos/all/{name}.mp4")


def make_msvd(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    listed = {}
    for split in ("train", "val", "test"):
        (root / f"{split}_list.txt").write_text(f"{split}_1_9\n")
        listed[f"{split}_1_9"] = [["a", "dog", "runs"], ["it", "is", split]]
        film(root / f"YouTubeClips/{split}_1_9.avi")
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(listed))


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a video")


def scene(root: Path, place: str, name: str) -> None:
    """A folder of SUN RGB-D, with 1 m, 8.192 m (for which 8 is said) and a hole."""
    picture(root / place / "image/0.jpg")
    (root / place / "scene.txt").write_text(name)
    millimetres = np.array([[1000, 8192, 0]], np.uint16)
    (root / place / "depth").mkdir()
    Image.fromarray((millimetres << 3) | (millimetres >> 13)).save(root / place / "depth/0.png")


def make_nyu(root: Path) -> None:
    from scipy.io import savemat

    for number, name in ((1, "bedroom"), (2, "living_room"), (7, "cafe")):
        scene(root, f"SUNRGBD/kv1/NYUdata/NYU{number:04}", name)
    savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[7]])})


def make_sun(root: Path) -> None:
    from scipy.io import savemat

    for place, name in (("kv2/a/1", "office"), ("xtion/b/2", "cafe"), ("realsense/c", "rest_space")):
        scene(root, place, name)
    there = "/n/fs/sun3d/data/SUNRGBD/"
    train = np.array([f"{there}kv2/a/1", f"{there}xtion/b/2"], dtype=object)
    savemat(root / "allsplit.mat", {"alltrain": train[None], "alltest": np.array([[f"{there}realsense/c"]], object)})


def make_snli_ve(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    picture(root / "images" / "1.jpg")
    for split in ("train", "dev", "test"):
        record = {"Flickr30K_ID": "1", "sentence1": "a man", "sentence2": f"{split} it", "gold_label": "neutral"}
        (root / f"snli_ve_{split}.jsonl").write_text(json.dumps({**record, "pairID": "1.jpg#0r1"}) + "\n")


MAKERS: dict[str, Callable[[Path], None]] = {
    "coco": make_coco,
    "coco-captions": make_coco,
    "snli-ve": make_snli_ve,
    "flickr30k": make_flickr,
    "audiocaps": make_audiocaps,
    "clotho": make_clotho,
    "macs": make_macs,
    "esc50": make_esc50,
    "fsd50k": make_fsd50k,
    "vggsound": make_vggsound,
    "vqa": make_vqa,
    "avqa": make_avqa,
    "refcoco": make_refcoco,
    "nlvr2": make_nlvr2,
    "imagenet": make_imagenet,
    "msrvtt": make_msrvtt,
    "msvd": make_msvd,
    "nyu-d": make_nyu,
    "sun-d": make_sun,
}
# benchmark -> rows by split, and the last row of one split but for its media
EXPECTED: dict[str, tuple[dict[str, int], str, dict[str, str]]] = {
    "coco": ({"train": 10, "val": 1, "test": 1}, "train", {"image_id": "1001", "caption": "caption 4 of 1"}),
    "coco-captions": (
        {"train": 10, "train_references": 2, "val": 1, "test": 1},
        "val",
        {"image_id": "1002", "caption": "&&".join(f"caption {k} of 2" for k in range(5))},
    ),
    "snli-ve": (
        {"train": 1, "val": 1, "test": 1},
        "test",
        {"uniq_id": "1.jpg#0r1", "hypothesis": "test it", "caption": "a man", "label": "neutral"},
    ),
    "flickr30k": ({"train": 5, "val": 1, "test": 1}, "val", {"image_id": "1", "caption": "caption 0 of 1"}),
    "audiocaps": ({"train": 3, "val": 1, "test": 1}, "train", {"text": "a dog barks, take 2", "duration": "1.50"}),
    "clotho": ({"train": 5, "val": 1, "test": 1}, "test", {"text": "rain 0", "duration": "2.00"}),
    "macs": ({"train": 2}, "train", {"text": "people talk 1", "duration": "1.50"}),
    "esc50": ({"esc50": 2}, "esc50", {"text": "36", "duration": "1.50", "fold": "1"}),
    "fsd50k": ({"train": 1, "val": 1, "test": 1}, "train", {"text": "1,0"}),
    "vggsound": ({"train": 1, "test": 1}, "test", {"text": "1"}),
    "vqa": (
        {"train": 10, "val": 10},
        "val",
        {
            "question": "Is it red?",
            "refs": "yes|!+0.9",
            "annotators": "&&".join(["Yes"] * 3 + ["a dog"] + ["maybe"] * 6),
        },
    ),
    "avqa": ({"train": 1, "val": 1}, "val", {"text": "What is it?&&&a&&&b&&&c&&&d&&&2"}),
    "refcoco": ({"testA": 2}, "testA", {"text": "the man", "region_coord": "1.5,2,31.5,22.25"}),
    "nlvr2": ({"train": 1, "dev": 1, "test1": 1}, "train", {"text": "Both are dogs.", "label": "True"}),
    "imagenet": ({"train": 2, "val": 2}, "val", {"label": "n02"}),
    "msrvtt": ({"train": 2, "val": 1, "test": 1}, "train", {"uniq_id": "video0#1", "text": "caption 1 of video0"}),
    "msvd": ({"train": 2, "val": 1, "test": 1}, "test", {"uniq_id": "test_1_9", "text": "a dog runs"}),
    "nyu-d": ({"train": 2, "test": 1}, "test", {"uniq_id": "kv1/NYUdata/NYU0007", "label": "others"}),
    "sun-d": ({"train": 1, "test": 1}, "test", {"uniq_id": "realsense/c", "label": "rest space"}),
}
TEXTS = {*GLUE, *OFA_TABLES, "gigaword"}  # without files of pictures and sounds
MEDIA = ("image", "image1", "image2", "audio", "video", "depth")


def test_every_benchmark_is_tried() -> None:
    assert set(MAKERS) == set(EXPECTED) == set(BENCHMARKS) - TEXTS  # those are in test_published_texts.py


@pytest.mark.parametrize("name", MAKERS)
def test_converts(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path / "source")
    report = convert_benchmark(name, tmp_path / "source", tmp_path / "out")
    counts, split, last = EXPECTED[name]
    assert dict(report.written) == counts and not report.missing
    for made in counts:
        rows = TaskRows(tmp_path / "out" / f"{made}.tsv", (), MEDIA, tmp_path / "cache")
        assert len(rows) == counts[made]
        if name not in ("coco", "flickr30k"):
            rows.check_ids()
        for index in range(len(rows)):
            values = rows.row(index)[1]
            media = [values[m] for m in MEDIA if m in values]
            assert media and all(path.is_absolute() and path.is_file() for path in media)
        if made == split:
            assert {key: values[key] for key in last} == last


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"imagenet"}))  # whose pictures no file lists
def test_missing_media_are_counted_and_named(name: str, tmp_path: Path) -> None:
    """Without one file its rows are left out, without all of them there is nothing to convert."""
    MAKERS[name](tmp_path / "source")
    endings = (".jpg", ".jpeg", ".png", ".wav", ".mp4", ".avi")
    files = sorted(p for p in (tmp_path / "source").rglob("*") if p.suffix.lower() in endings)
    before = sum(convert_benchmark(name, tmp_path / "source", tmp_path / "whole").written.values())
    if len(files) > 1:
        files[0].unlink()
        report = convert_benchmark(name, tmp_path / "source", tmp_path / "part")
        left_out = (tmp_path / "part/missing.txt").read_text().split("\n")[:-1]
        assert sum(report.written.values()) + len(left_out) == before
        # of the names a clip may have the first is told; of scenes, whose files have any names, the folder
        assert name in ("audiocaps", "nyu-d", "sun-d") or files[0].name in left_out[0]
        assert f"left out, as their files are missing: {len(left_out)} rows" in str(report)
    for path in files:
        path.unlink(missing_ok=True)
    with pytest.raises(InputError, match="none of the rows has its pictures and sounds; the first one"):
        convert_benchmark(name, tmp_path / "source", tmp_path / "none")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder_is_told_what_it_lacks(name: str, tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(InputError, match=r"holds no|neither"):
        convert_benchmark(name, tmp_path / "empty", tmp_path / "out")


def test_published_answers_are_taken_where_they_are(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    write_json(tmp_path / "trainval_ans2label.json", {"maybe": 1, "dog": 0})
    convert_benchmark("vqa", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out/answers.json").read_text()) == ["dog", "maybe"]
    assert "dog|!+0.3&&maybe|!+1.0" in (tmp_path / "out/val.tsv").read_text()


def test_answers_too_rare_to_be_learnt_are_told(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    write_json(tmp_path / "ans2label.json", {"never": 0})
    report = convert_benchmark("vqa", tmp_path, tmp_path / "out")
    assert re.search(r"left out, as none of their answers is one to be learnt: \d+ rows", str(report))
    (tmp_path / "ans2label.json").unlink()
    place = tmp_path / "v2_mscoco_train2014_annotations.json"
    given = json.loads(place.read_text())["annotations"]
    write_json(place, {"annotations": [{**one, "multiple_choice_answer": str(n)} for n, one in enumerate(given)]})
    with pytest.raises(InputError, match="no answer is that of 9 training questions or more"):
        convert_benchmark("vqa", tmp_path, tmp_path / "few")


def test_an_earlier_list_of_missing_files_goes(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/missing.txt").write_text("old.jpg\n")
    assert not convert_benchmark("vqa", tmp_path, tmp_path / "out").missing
    assert not (tmp_path / "out/missing.txt").exists()


def test_texts_of_evaluated_pictures(tmp_path: Path) -> None:
    make_coco(tmp_path)
    convert_benchmark("coco", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out/test_texts.json").read_text()) == {
        "1003": [f"caption {k} of\t3" for k in range(5)]
    }
    assert not (tmp_path / "out/train_texts.json").exists()


class Hostile:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hostile-was-here",)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Hostile()]))
    with pytest.raises(
        InputError, match=r"refs\(unc\).p: is no plain list of references: it wants to load posix.system"
    ):
        convert_benchmark("refcoco", tmp_path, tmp_path / "out")
    assert not (tmp_path / "hostile-was-here").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"a": 1})[:-3]])
def test_damaged_pickles_are_named(content: bytes, tmp_path: Path) -> None:
    make_refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(content)
    with pytest.raises(InputError, match="refs"):
        convert_benchmark("refcoco", tmp_path, tmp_path / "out")


def test_unknown_labels_and_fields_are_named(tmp_path: Path) -> None:
    make_fsd50k(tmp_path)
    write_csv(tmp_path / "FSD50K.ground_truth/eval.csv", [["fname", "labels", "mids"], [13, "Hail", ""]])
    with pytest.raises(InputError, match="'Hail' of 13 is not in vocabulary.csv"):
        convert_benchmark("fsd50k", tmp_path, tmp_path / "out")
    make_flickr(tmp_path)
    listed = json.loads((tmp_path / "dataset_flickr30k.json").read_text())
    listed["images"][1]["split"] = "dev"
    write_json(tmp_path / "dataset_flickr30k.json", listed)
    with pytest.raises(InputError, match="0001.jpg is of an unknown split, 'dev'"):
        convert_benchmark("flickr30k", tmp_path, tmp_path / "out")
    make_avqa(tmp_path)
    write_json(tmp_path / "val_qa.json", [{"id": 5}])
    with pytest.raises(InputError, match="no 'video_name'; it has id"):
        convert_benchmark("avqa", tmp_path, tmp_path / "out")


def without(content: Any, path: list[Any]) -> Any:
    """A copy of JSON without the field at a path."""
    made = json.loads(json.dumps(content))
    at = made
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    return made


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[list[Any]]:
    """The paths of all fields, of lists only those of the first element."""
    inside = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for name, value in inside:
        if isinstance(content, dict):
            yield [*path, name]
        if isinstance(value, dict | list):
            yield from fields(value, (*path, name))


# or needed in some splits alone
OPTIONAL = {"cocoid", "filepath", "ref_id", "directory", "pairID", "imgid", "multiple_choice_answer"}


@pytest.mark.parametrize("name", ["coco", "flickr30k", "vqa", "avqa", "refcoco", "nlvr2", "snli-ve", "msrvtt"])
def test_every_field_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    references = tmp_path / "refs(unc).p"
    tried = 0
    for file in [*tmp_path.glob("*.json*"), *tmp_path.glob("refs*")]:
        stored = file.read_bytes()
        content = pickle.loads(stored) if file == references else json.loads(stored)
        for path in fields(content):
            if path[-1] in OPTIONAL:
                continue
            less = without(content, path)
            file.write_bytes(pickle.dumps(less) if file == references else json.dumps(less).encode())
            with pytest.raises(InputError, match=f"has no '{path[-1]}'; it has|has no caption"):
                convert_benchmark(name, tmp_path, tmp_path / "out")
            tried += 1
        file.write_bytes(stored)
    assert tried > 2


@pytest.mark.parametrize("content", [None, [None], ["text"], {"images": None}, {"images": [{"sentences": 3}]}, 7])
def test_values_of_another_kind_are_told(content: Any, tmp_path: Path) -> None:
    make_coco(tmp_path)
    write_json(tmp_path / "dataset_coco.json", content)
    with pytest.raises(InputError, match="expected a record|a record has no|is not as coco is published: TypeError"):
        convert_benchmark("coco", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "column", "file"),
    [
        ("audiocaps", "caption", "train.csv"),
        ("clotho", "file_name", "clotho_captions_development.csv"),
        ("esc50", "category", "meta/esc50.csv"),
        ("fsd50k", "fname", "FSD50K.ground_truth/dev.csv"),
    ],
)
def test_columns_that_are_missing_are_named(name: str, column: str, file: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    header, *rows = (tmp_path / file).read_text().splitlines()
    (tmp_path / file).write_text("\n".join([header.replace(column, "other"), *rows]))
    with pytest.raises(InputError, match=f"has no '{column}'"):
        convert_benchmark(name, tmp_path, tmp_path / "out")


@pytest.fixture
def short_fields() -> Iterator[None]:
    before = csv.field_size_limit(1000)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("short_fields")
def test_what_is_no_csv_is_named(tmp_path: Path) -> None:
    MAKERS["audiocaps"](tmp_path)
    header, first, *_ = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([header, first, first + "x" * 1000]))
    with pytest.raises(InputError, match="train.csv, line .: is no CSV: field larger than"):
        convert_benchmark("audiocaps", tmp_path, tmp_path / "out")


def test_a_question_without_its_annotation(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(InputError, match="question 20 has no annotation"):
        convert_benchmark("vqa", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("file", ["ans2label.json", "v2_OpenEnded_mscoco_test2015_questions.json"])
def test_optional_files_that_are_damaged_do_not_count_as_missing(file: str, tmp_path: Path) -> None:
    make_vqa(tmp_path)
    (tmp_path / file).write_text("half a down")
    with pytest.raises(InputError, match=f"{file}: is no JSON"):
        convert_benchmark("vqa", tmp_path, tmp_path / "out")


def test_each_list_of_test_questions_is_optional(tmp_path: Path) -> None:
    make_vqa(tmp_path)
    picture(tmp_path / "test2015/COCO_test2015_000000000003.jpg")
    questions = {"questions": [{"question_id": 7, "image_id": 3, "question": "Is it?"}]}
    write_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", questions)
    convert_benchmark("vqa", tmp_path, tmp_path / "out")
    row = TaskRows(tmp_path / "out/test-dev.tsv", (), (), tmp_path / "cache").row(0)[1]
    assert row["uniq_id"] == "7" and "refs" not in row


def test_pictures_of_imagenet_have_ids_of_their_own_and_folders_of_their_class(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        picture(tmp_path / "train" / name / "same.jpg")
    picture(tmp_path / "train" / "montage.jpg")  # beside the folders: of no class
    convert_benchmark("imagenet", tmp_path, tmp_path / "out")
    rows = TaskRows(tmp_path / "out/train.tsv", (), MEDIA, tmp_path / "cache")
    rows.check_ids()
    assert len(rows) == 2 and rows.row(1)[1]["uniq_id"] == "n02/same.jpg"
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")  # as the published archive has them
    with pytest.raises(InputError, match="val: holds pictures but no folder per class"):
        convert_benchmark("imagenet", tmp_path, tmp_path / "out")


def test_a_sentence_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    make_nlvr2(tmp_path)
    said = "Both\u2028are\x85dogs."
    record = {"identifier": "train-12-0-1", "sentence": said, "label": "True", "directory": 7}
    (tmp_path / "train.json").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    convert_benchmark("nlvr2", tmp_path, tmp_path / "out")
    rows = TaskRows(tmp_path / "out/train.tsv", (), MEDIA, tmp_path / "cache")
    assert len(rows) == 1 and rows.row(0)[1]["text"] == said


def test_msrvtt_is_split_as_most_report_it_where_the_list_is(tmp_path: Path) -> None:
    make_msrvtt(tmp_path)
    rows = [["key", "vid_key", "video_id", "sentence"], ["ret0", "msr0", "video1", "the chosen caption"]]
    write_csv(tmp_path / "MSRVTT_JSFUSION_test.csv", rows)
    assert dict(convert_benchmark("msrvtt", tmp_path, tmp_path / "out").written) == {"train": 4, "test": 1}
    assert json.loads((tmp_path / "out/test_texts.json").read_text()) == {"video1": ["the chosen caption"]}
    write_csv(tmp_path / "MSRVTT_train.9k.csv", [["video_id"], ["video2"]])
    assert dict(convert_benchmark("msrvtt", tmp_path, tmp_path / "9k").written) == {"train": 2, "test": 1}


def test_msvd_has_its_captions_in_either_of_two_files(tmp_path: Path) -> None:
    make_msvd(tmp_path)
    (tmp_path / "raw-captions.pkl").unlink()
    lines = ["# all of them", "", *(f"{split}_1_9 a dog, running" for split in ("train", "val", "test"))]
    (tmp_path / "AllVideoDescriptions.txt").write_text("\n".join(lines))
    convert_benchmark("msvd", tmp_path, tmp_path / "out")
    assert json.loads((tmp_path / "out/val_texts.json").read_text()) == {"val_1_9": ["a dog, running"]}
    (tmp_path / "AllVideoDescriptions.txt").write_text("train_1_9 a dog")
    with pytest.raises(InputError, match="val_1_9 of the split val has no caption"):
        convert_benchmark("msvd", tmp_path, tmp_path / "out")


def test_depth_of_scenes_is_rewritten_to_millimetres(tmp_path: Path) -> None:
    make_sun(tmp_path / "source")
    convert_benchmark("sun-d", tmp_path / "source", tmp_path / "out")
    table = TaskRows(tmp_path / "out/test.tsv", ("depth", "label"), MEDIA, tmp_path / "cache")
    depth = read_depth(table.row(0)[1]["depth"])
    assert depth[0, :2].tolist() == [1000, 8000] and np.isnan(depth[0, 2])
    assert len(json.loads((tmp_path / "out/labels.json").read_text())) == 19
    (tmp_path / "source/allsplit.mat").write_bytes(b"junk")
    with pytest.raises(InputError, match="no MATLAB file"):
        convert_benchmark("sun-d", tmp_path / "source", tmp_path / "out")


def test_a_file_of_other_scenes_is_named(tmp_path: Path) -> None:
    from scipy.io import savemat

    make_nyu(tmp_path)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1]]), "other": np.array([[7]])})
    with pytest.raises(InputError, match=r"splits\.mat: has no testNdxs; it has trainNdxs, other"):
        convert_benchmark("nyu-d", tmp_path, tmp_path / "out")


def test_an_unknown_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: coco, "):
        convert_benchmark("cifar", tmp_path, tmp_path / "out")


def make_labeled_nyu(root: Path) -> None:
    """NYU Depth v2's own two files: axes turned round, texts as arrays of characters behind references."""
    h5py = pytest.importorskip("h5py")
    from scipy.io import savemat

    savemat(root / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        depths = np.arange(3 * 4 * 2, dtype=np.float32).reshape(3, 4, 2)  # (scenes, width, height)
        file["depths"] = depths
        file["images"] = np.arange(3 * 3 * 4 * 2, dtype=np.uint8).reshape(3, 3, 4, 2)
        cells = file.create_dataset("sceneTypes", (1, 3), dtype=h5py.ref_dtype)
        for number, kind in enumerate(("bedroom", "cafe", "living_room")):
            file[f"#refs#/{number}"] = np.array([[ord(c)] for c in kind], np.uint16)
            cells[0, number] = file[f"#refs#/{number}"].ref


def test_nyu_depth_of_its_own_file(tmp_path: Path) -> None:
    make_labeled_nyu(tmp_path)
    report = convert_benchmark("nyu-d", tmp_path, tmp_path / "out")
    assert dict(report.written) == {"train": 2, "test": 1}
    rows = TaskRows(tmp_path / "out/train.tsv", (), MEDIA, tmp_path / "cache")
    first, last = rows.row(0)[1], rows.row(1)[1]
    assert (first["label"], last["label"], last["uniq_id"]) == ("bedroom", "living room", "NYU0003")
    with Image.open(first["depth"]) as depth, Image.open(last["image"]) as picture:
        assert np.asarray(depth).tolist() == [[0, 2000, 4000, 6000], [1000, 3000, 5000, 7000]]
        assert picture.size == (4, 2) and np.asarray(picture)[1, 2].tolist() == [48 + 5, 48 + 8 + 5, 48 + 16 + 5]
    test = TaskRows(tmp_path / "out/test.tsv", (), MEDIA, tmp_path / "cache").row(0)[1]
    assert test["label"] == "others"
    with Image.open(test["depth"]) as depth:
        assert np.asarray(depth).min() == np.asarray(depth).max() == 8000  # farther is cut off


def test_nyu_depth_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_labeled_nyu(tmp_path)
    from scipy.io import savemat

    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[4]]), "testNdxs": np.array([[2]])})
    with pytest.raises(InputError, match="has 3 scenes, and the split names the 4th"):
        convert_benchmark("nyu-d", tmp_path, tmp_path / "out")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"half a download")
    with pytest.raises(InputError, match="no MATLAB file of version 7.3"):
        convert_benchmark("nyu-d", tmp_path, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"one-peace\[matlab\]"):
        convert_benchmark("nyu-d", tmp_path, tmp_path / "out")


def test_a_table_that_is_made_anew_does_not_disturb_its_readers(tmp_path: Path) -> None:
    """Runs hold tables in mapped memory: one that is cut short under them would end them without a word."""

    def rows(count: int) -> list[SplitRow]:
        return [SplitRow("train", {"uniq_id": str(number), "text": "x" * 500}, ()) for number in range(count)]

    def failing() -> Iterator[SplitRow]:
        yield from rows(3)
        raise KeyboardInterrupt

    write_tables(Converted(rows(400)), tmp_path, tmp_path)
    table = TaskRows(tmp_path / "train.tsv", ("text",), (), tmp_path / "cache")
    table.row(0)
    with pytest.raises(KeyboardInterrupt):
        write_tables(Converted(failing()), tmp_path, tmp_path)
    assert len(TaskRows(tmp_path / "train.tsv", ("text",), (), tmp_path / "cache")) == 400, "the earlier one is kept"
    write_tables(Converted(rows(2)), tmp_path, tmp_path)
    assert all(table.row(number)[1]["text"] == "x" * 500 for number in range(400))
    assert len(TaskRows(tmp_path / "train.tsv", ("text",), (), tmp_path / "cache")) == 2
    assert not list(tmp_path.glob(".*"))
