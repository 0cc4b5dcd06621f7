"""What is done with a library besides searching it: near-duplicates, tags, export, ordering by joint encoding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, ImageDraw

from fake_encoder import DIM, FakeEncoder, write_sound
from one_peace.errors import InputError
from one_peace.search import duplicates
from one_peace.search.duplicates import find_duplicates
from one_peace.search.exporting import export_library
from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.queries import Part, Query, QueryError
from one_peace.search.tagging import tag_items


@pytest.fixture
def opened(folder: Path, tmp_path: Path, encoder: FakeEncoder) -> Library:
    library = Library(tmp_path / "library", encoder)
    library.index(folder)
    return library


def test_near_duplicates(folder: Path, opened: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(drawing).ellipse((10, 10, 60, 80), fill=(200, 40, 40))
    drawing.save(folder / "drawing.png")
    drawing.resize((60, 45)).save(folder / "smaller.jpg", quality=70)
    mirrored = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(folder / "mirrored.png")  # of equal colors, which is all that the encoder here sees
    shutil.copyfile(folder / "red.png", folder / "animals" / "copy.png")
    write_sound(folder / "longer.wav", 440, seconds=3)
    (folder / "again.md").write_text("# Notes\nAbout \u043a\u043e\u0442 and \u732b!\n", encoding="utf-8")
    opened.index(folder)
    groups = [[item.path.name for item in group] for group in find_duplicates(opened)]
    assert sorted(map(sorted, groups)) == [["copy.png", "red.png"], ["drawing.png", "smaller.jpg"]]
    assert max(("drawing.png", "smaller.jpg"), key=lambda name: (folder / name).stat().st_size) in {
        g[0] for g in groups
    }
    assert find_duplicates(opened, Filters(modality=("audio",))) == []
    held: list[int] = []
    rows = type(opened.store).rows
    monkeypatch.setattr(type(opened.store), "rows", lambda store, ids: (held.append(len(ids)), rows(store, ids))[1])
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 2)
    assert [[item.path.name for item in group] for group in find_duplicates(opened)] == groups
    assert max(held) <= 4


def test_near_duplicates_without_pictures(tmp_path: Path, encoder: FakeEncoder) -> None:
    write_sound(tmp_path / "tone.wav", 440)
    samples, rate = soundfile.read(tmp_path / "tone.wav")
    soundfile.write(tmp_path / "again.flac", samples, rate)
    write_sound(tmp_path / "longer.wav", 440, seconds=3)
    opened = Library(tmp_path / ".one-peace", encoder)
    opened.index(tmp_path)
    assert [{item.path.name for item in group} for group in find_duplicates(opened)] == [{"tone.wav", "again.flac"}]


def test_texts_are_compared_to_their_end(folder: Path, opened: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(duplicates._NEAR, "text", -1.0)  # the encoder here finds no texts alike
    beginning = "The same beginning of both. " * 7
    (folder / "one.txt").write_text(beginning + "Then it goes on with a sentence about horses in a field, at noon.")
    (folder / "two.txt").write_text(beginning + "0123456789 0123456789 0123456789 0123456789 0123456789 01234567")
    opened.index(folder)
    assert find_duplicates(opened) == []


def test_zero_shot_tags(opened: Library, folder: Path) -> None:
    pictures = Filters(modality=("image",))
    tagged = list(tag_items(opened, ["red", " green ", "blue"], filters=pictures))
    assert [(one.path.name, [label for label, _ in one.labels]) for one in tagged] == [
        ("green.jpg", ["green"]),
        ("red.png", ["red"]),
    ]
    both = next(tag_items(opened, ["red", "green"], best=2, filters=pictures))
    assert [label for label, _ in both.labels] == ["green", "red"] and both.labels[0][1] > both.labels[1][1]
    assert all(not one.labels for one in tag_items(opened, ["nonsense"], least=0.99))
    for labels in ([], ["a", " "], ["a", "a"]):
        with pytest.raises(QueryError, match="labels"):
            list(tag_items(opened, labels))
    with pytest.raises(QueryError, match="best"):
        list(tag_items(opened, ["a"], best=0))
    with pytest.raises(QueryError, match="least"):
        list(tag_items(opened, ["a"], least=float("nan")))


def test_export(opened: Library, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="are a list of words, not 'red'"):
        opened.add_tags({opened.items()[0].id: "red"})
    opened.add_tags({opened.items()[0].id: ["a", "b"]})
    assert export_library(opened, tmp_path / "out" / "all.npz") == 4
    lines = [json.loads(line) for line in (tmp_path / "out" / "all.jsonl").read_text().splitlines()]
    with np.load(tmp_path / "out" / "all.npz") as arrays:
        assert arrays["vectors"].shape == (4, DIM) and str(arrays["fingerprint"]) == opened.model.fingerprint
        assert arrays["ids"].tolist() == [line["id"] for line in lines]
        rows = opened.store.rows(arrays["ids"].tolist())
        for id, vector in zip(arrays["ids"], arrays["vectors"], strict=True):
            np.testing.assert_array_equal(rows[str(id)].vector, vector)
    assert {line["path"] for line in lines} == {str(item.path) for item in opened.items()}

    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_library(opened, tmp_path / "some.parquet", Filters(folder=str(folder / "animals"))) == 2
    table = parquet.read_table(tmp_path / "some.parquet")
    assert table.schema.metadata[b"fingerprint"] == opened.model.fingerprint.encode()
    assert table.num_rows == 2
    for row in table.to_pylist():
        entry = rows[row["id"]].entry
        assert (row["path"], tuple(row["tags"]), row["duration"]) == (entry.path, entry.tags, entry.duration)
        np.testing.assert_array_equal(np.float32(row["vector"]), rows[row["id"]].vector)
    with pytest.raises(ValueError, match=r"\.parquet or \.npz"):
        export_library(opened, tmp_path / "a.csv")


def test_an_export_that_fails_leaves_nothing(opened: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(filters: Filters | None) -> object:
        yield opened.entries()[:2], np.zeros((2, DIM), np.float32)
        raise OSError("disk full")

    monkeypatch.setattr(opened, "vectors", broken)
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(OSError, match="disk full"):
            export_library(opened, tmp_path / "out" / name)
    assert list((tmp_path / "out").iterdir()) == []


class _Joint(FakeEncoder):
    """Joint encoding that likes what is green."""

    def features(self, **inputs: list) -> dict[str, torch.Tensor]:
        texts, (branch, sources) = inputs.pop("text"), *inputs.items()
        assert len(texts) == len(sources)
        liked = [float(Path(path).name == "green.jpg") for path in sources]
        toward = self.encode_modality("text", [texts[0]])
        return {branch: torch.tensor(liked)[:, None, None] * toward[None]}

    @property
    def encoder(self) -> _Joint:
        return self

    def project(self, name: str, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0] * 10


def test_ordering_by_joint_encoding(folder: Path, tmp_path: Path) -> None:
    opened = Library(tmp_path / "library", _Joint())
    opened.index(folder)
    plain = [r.path.name for r in opened.search(text="red", k=4)]
    again = [r.path.name for r in opened.search(text="red", k=4, rerank=4)]
    assert plain.index("red.png") < plain.index("green.jpg") and again.index("green.jpg") < again.index("red.png")
    kept = [(i, name) for i, name in enumerate(plain) if not name.endswith(("png", "jpg"))]
    assert all(again[i] == name for i, name in kept)
    (folder / "animals" / "green.jpg").write_bytes(b"another file")  # of what it was nothing can be read
    assert [r.path.name for r in opened.search(text="red", k=4, rerank=4)] == plain
    (folder / "red.png").unlink()  # gone from the disk, but not yet from the library
    assert len(opened.search(text="red", k=4, rerank=2)) == 4


def test_a_part_of_a_recording_is_not_read_jointly(folder: Path, tmp_path: Path) -> None:
    """The model would be shown the whole file in place of the part that was found."""
    shown = []

    class Watched(_Joint):
        def features(self, **inputs: list) -> dict[str, torch.Tensor]:
            shown.extend(Path(path).name for name, paths in inputs.items() if name != "text" for path in paths)
            return super().features(**inputs)

    write_sound(folder / "long.wav", 440, seconds=91)
    opened = Library(tmp_path / "library", Watched())
    opened.index(folder)
    assert {row.parts for row in opened.entries() if row.path.endswith("long.wav")} == {3}
    opened.search(text="red", k=9, rerank=9)
    assert "tone.wav" in shown and "long.wav" not in shown


def test_a_file_that_joint_encoding_cannot_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: _Joint, **inputs: list) -> dict[str, torch.Tensor]:
        raise InputError(str(folder / "red.png"), "cannot be opened: Permission denied")

    monkeypatch.setattr(_Joint, "features", unreadable)
    opened = Library(tmp_path / "library", _Joint())
    opened.index(folder)
    with pytest.raises(QueryError) as caught:
        opened.search(text="red", rerank=4)
    assert str(caught.value) == (
        "rerank: the file of an answer cannot be opened: Permission denied; index its folder again"
    )


def test_what_cannot_be_encoded_jointly(opened: Library, folder: Path) -> None:
    with pytest.raises(QueryError, match="rerank.*jointly"):
        opened.search(text="red", rerank=2)
    joint = Library(opened.path, _Joint())
    with pytest.raises(QueryError, match="rerank.*texts, of which it has none"):
        joint.search(Query((Part("image", folder / "red.png"),), rerank=2))
