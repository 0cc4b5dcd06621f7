"""Tables of sample tasks from a small library: rows that the tasks accept, splits that keep things apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from one_peace.data import sample_tasks
from one_peace.data.manifest import Item
from one_peace.data.published.conversion import write_tables
from one_peace.data.sample_library import stamps
from one_peace.data.sample_library.building import Library
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.data.sample_tasks import make_sample_task, pictures, scenes, sounds
from one_peace.data.sample_tasks.sources import Sources
from one_peace.data.task_rows import TaskRows
from one_peace.modalities.base import Processor
from one_peace.tasks.grounding import Grounding
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.reasoning import Reasoning
from one_peace.tasks.task import Task
from tiny_models import tiny_processors

NAMES = [
    f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("ball", "box", "pen", "cat", "car", "hat")
]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Eighteen stamps, a third of them held out, in a package that looks like the real one."""
    package = tmp_path / "package"
    folder = package / "usr/share/tuxpaint/stamps"
    items = []
    for number, name in enumerate(NAMES):
        path = folder / f"things/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (40, 30), (10 * number, 100, 200, 255)).save(path)
        split = "val" if number % 3 == 2 else "train"
        values = {"kind": "image", "path": path, "group": name, "split": split, "texts": {"en": [f"A {name}."]}}
        named = {"source": stamps.PACKAGE.name, "version": "1", "licence": "", "category": "things/x"}
        items.append(Item(id=f"stamps/things/{number}", **values, **named))

    def fetch(wanted: Package, cache: Path, progress: object = None) -> Fetched:
        return Fetched("debian", wanted.name, "", "1", "0", package)

    for makers in (scenes, sounds):
        monkeypatch.setattr(makers, "fetch", fetch)
    monkeypatch.setattr(scenes, "TRAINING_SCENES", 12)
    monkeypatch.setattr(scenes, "TEST_SCENES", 6)
    monkeypatch.setattr(pictures, "CATEGORY_SIZE", 3)
    return Sources(tmp_path, items, lambda line: None)


def read(out: Path, split: str, task: Task) -> list[dict[str, str]]:
    """Every row, after the task has accepted it."""
    rows = TaskRows(out / f"{split}.tsv", task.columns, ("image", "image1", "image2"), out / "cache")
    rows.check_ids()
    made = [rows.row(index) for index in range(len(rows))]
    for key, row in made:
        assert task.example(row, key).target is not None
    return [row for _, row in made]


def processors() -> dict[str, Processor]:
    return tiny_processors()


def test_boxes(sources: Sources, tmp_path: Path) -> None:
    report = write_tables(scenes.scene_boxes(sources, tmp_path / "out"), tmp_path, tmp_path / "out")
    assert dict(report.written) == {"train": 12, "test": 6, "unseen": 6}
    trained = {i.group for i in sources.stamps("train")}
    for split in report.written:
        for row in read(tmp_path / "out", split, Grounding(processors())):
            named = next(n for n in NAMES if n in row["text"])
            assert (named in trained) == (split != "unseen")
    again = write_tables(scenes.scene_boxes(sources, tmp_path / "again"), tmp_path, tmp_path / "again")
    assert again.written == report.written
    texts = [(tmp_path / out / "test.tsv").read_text().replace(out, "") for out in ("out", "again")]
    assert texts[0] == texts[1]


def test_pairs_and_questions(sources: Sources, tmp_path: Path) -> None:
    write_tables(scenes.scene_pairs(sources, tmp_path / "pairs"), tmp_path, tmp_path / "pairs")
    rows = read(tmp_path / "pairs", "train", Reasoning(processors()))
    assert len(rows) == 12 and {row["label"] for row in rows} == {"True", "False"}
    assert all(row["image1"] != row["image2"] for row in rows)
    write_tables(scenes.scene_questions(sources, tmp_path / "questions"), tmp_path, tmp_path / "questions")
    answers = LabelMap.read(tmp_path / "questions/answers.json")
    task = TaskSettings("visual-question-answering", labels=answers.names).build(processors())
    assert len(read(tmp_path / "questions", "test", task)) == 6


def test_categories_need_enough_pictures(sources: Sources, tmp_path: Path) -> None:
    write_tables(pictures.stamp_categories(sources, tmp_path / "out"), tmp_path, tmp_path / "out")
    assert LabelMap.read(tmp_path / "out/labels.json").names == ("things",)
    task = TaskSettings("classification", labels=("things",)).build(processors())
    assert len(read(tmp_path / "out", "train", task)) == 12 and len(read(tmp_path / "out", "test", task)) == 6


def test_keywords_are_several_labels(sources: Sources, tmp_path: Path) -> None:
    for number, item in enumerate(sources.items):
        item.tags[:] = ["thing"] * (number != 4) + ["round"] * (number % 2) + ["rare"] * (number == 1)
    emoji = [dataclasses.replace(item, source="@iconify-json/noto") for item in sources.items]
    made = pictures.emoji_keywords(dataclasses.replace(sources, items=emoji), tmp_path / "out")
    write_tables(made, tmp_path, tmp_path / "out")
    labels = LabelMap.read(tmp_path / "out/labels.json")
    assert labels.names == ("round", "thing")
    task = TaskSettings("classification", labels=labels.names, multiple=True).build(processors())
    rows = read(tmp_path / "out", "train", task)
    assert len(rows) == 11, "one has no keyword that is frequent enough"
    assert {row["label"] for row in rows} == {"thing", "round,thing"}


def test_emoji_with_their_names(sources: Sources, tmp_path: Path) -> None:
    """Of one style, and a name that is trained on is not tested on."""
    emoji = [dataclasses.replace(item, source="@iconify-json/noto") for item in sources.items[:9]]
    made = pictures.emoji_captions(dataclasses.replace(sources, items=emoji + sources.items[9:]), tmp_path)
    assert dict(write_tables(made, tmp_path, tmp_path / "out").written) == {"train": 6, "test": 3}
    rows = TaskRows(tmp_path / "out/test.tsv", ("image", "caption"), ("image",), tmp_path / "cache")
    rows.check_ids()
    assert [rows.row(index)[1]["caption"] for index in range(3)] == ["A red pen.", "A red hat.", "A green pen."]


def test_drums_as_questions(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["kick 1", "snare 1", "tom 1", "hihat 1", "ride 1"]
    kits = ["a kit", sounds.HELD_OUT_KITS[0]]
    for kit in kits:
        for name in names:
            path = tmp_path / "package" / kit / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.zeros(1600), 16000)
    write_tables(sounds.drum_answers(sources, tmp_path / "out"), tmp_path, tmp_path / "out")
    task = TaskSettings("audio-question-answering").build(processors())
    for split in ("train", "test"):
        for row in read(tmp_path / "out", split, task):
            _, *choices, place = row["text"].split("&&&")
            assert len(set(choices)) == 4 and choices[int(place)] in row["uniq_id"]


def test_what_is_said_is_asked_of_speech_alone(sources: Sources, tmp_path: Path) -> None:
    """Not of effects, nor of a speaker who is held out; wrong answers are captions of the same side."""
    path = tmp_path / "said.wav"
    soundfile.write(path, np.zeros(16_000), 16_000)
    clips = []
    for picture in sources.items:
        said = {"item": picture.id, "kind": "audio", "path": path, "texts": {}, "duration": 1.0}
        for kind, more in (
            ("held", {"track": "speech", "heldout_speaker": True}),
            ("speech", {"track": "speech"}),
            ("effect", {"track": "effect"}),
        ):
            clips.append(dataclasses.replace(picture, id=f"{picture.id}#{kind}", **said, **more))
    made = sounds.spoken_answers(dataclasses.replace(sources, items=[*sources.items, *clips]), tmp_path / "out")
    assert dict(write_tables(made, tmp_path, tmp_path / "out").written) == {"train": 12, "test": 6}
    trained = {item.texts["en"][0].rstrip(".") for item in sources.stamps("train")}
    texts = {item.id: item.texts["en"][0].rstrip(".") for item in sources.items}
    task = TaskSettings("audio-question-answering").build(processors())
    for split in ("train", "test"):
        for row in read(tmp_path / "out", split, task):
            _, *choices, place = row["text"].split("&&&")
            assert row["uniq_id"].endswith("#speech") and choices[int(place)] == texts[row["uniq_id"].split("#")[0]]
            assert len(set(choices)) == 4 and {choice in trained for choice in choices} == {split == "train"}


def test_tables_of_scenes_may_go_to_a_relative_folder(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pictures are in it, and rows name them from anywhere."""
    built = Library(tmp_path, tmp_path / "manifest.jsonl", sources.items, [])
    monkeypatch.setattr(sample_tasks, "build_sample_library", lambda *given, **named: built)
    monkeypatch.chdir(tmp_path)
    report = make_sample_task("scene-questions", Path("out"), tmp_path / "cache")
    assert dict(report.written) == {"train": 12, "test": 6} and not report.missing


def test_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: stamp-categories"):
        make_sample_task("scenes", tmp_path)


@pytest.mark.parametrize(
    ("name", "drum"),
    [("GM_Kick-Soft", "kick"), ("hihat-closed-4", "hihat"), ("crash16i__ride2", "ride"), ("sr_02", "snare"),
     ("ft_01", "tom"), ("snare-mic-rimshot6", "rim"), ("Splash10-4", "crash"), ("beats_06-22", None), ("xFX_6", None)],
)  # fmt: skip
def test_drums_are_told_by_their_names(name: str, drum: str | None) -> None:
    import re

    found = next((d for d, pattern in sounds.DRUMS.items() if re.search(pattern, name.lower())), None)
    assert found == drum
