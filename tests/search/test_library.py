from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

from fake_encoder import FakeEncoder, hide_animals, write_picture, write_sound
from one_peace.data.lock import FolderBusyError, writer_lock
from one_peace.errors import MissingExtraError
from one_peace.search import changing, indexing, known_items, library_folder, reading
from one_peace.search import manifest as manifests
from one_peace.search.duplicates import find_duplicates
from one_peace.search.filters import Filters
from one_peace.search.library import Library
from one_peace.search.library_folder import erase_library
from one_peace.search.manifest import LibraryError, locate_library, read_manifest
from one_peace.search.queries import QueryError
from one_peace.search.stores import engines
from one_peace.search.stores.base import OtherModelError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "library"


def paths(results: list) -> list[str]:
    return [result.path.name for result in results]


def test_accents_are_found_however_they_are_written(tmp_path: Path, place: Path, encoder: FakeEncoder) -> None:
    apart, whole = "Cafe\u0301", "Caf\u00e9"
    write_picture(tmp_path / f"{apart}.png", (230, 20, 20))
    write_picture(tmp_path / "b.png", (20, 20, 20))
    (tmp_path / "b.txt").write_text(f"{apart} again\ntags={apart}\n", encoding="utf-8")
    (tmp_path / "c.md").write_text(f"On the {apart}.", encoding="utf-8")
    opened = Library(place, encoder)
    opened.index(tmp_path)
    for spelled in (apart, whole):
        assert len(opened.search(text="red", filters=Filters(caption=spelled.lower()))) == 3
        assert paths(opened.search(text="red", filters=Filters(tag=(spelled,)))) == ["b.png"]
    assert opened.index(tmp_path).unchanged == 3


def test_index_and_search(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    assert len(opened) == 0 and opened.entries() == []
    report = opened.index(folder)
    assert (report.added, report.problems) == (4, {}) and len(opened) == 4
    assert str(report) == "4 added"

    best = opened.search(text="red", k=2, modality="image")
    assert paths(best) == ["red.png", "green.jpg"]
    assert [r.rank for r in best] == [1, 2] and best[0].score > best[1].score
    assert best[1].caption == "A green animal." and best[0].modality == "image"
    assert best[0].thumbnail is not None and best[0].thumbnail.startswith(b"\xff\xd8")
    assert paths(opened.search(image=folder / "animals" / "green.jpg", k=1)) == ["green.jpg"]
    sound = opened.search(audio=[folder / "animals" / "tone.wav"], k=1)[0]
    assert sound.path.name == "tone.wav" and sound.duration == pytest.approx(0.5)
    assert sound.score == pytest.approx(1, abs=1e-6)
    text = opened.search(text="# Notes\nAbout \u043a\u043e\u0442 and \u732b.", k=1)[0]
    assert text.path.name == "notes.md" and text.caption == "# Notes About \u043a\u043e\u0442 and \u732b."
    assert text.thumbnail is None
    assert len(opened.search(text="red", k=100)) == 4
    assert paths(opened.search(text="red", folder=folder / "animals", modality="image")) == ["green.jpg"]


def test_a_mixed_query_is_the_mean_of_its_parts(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    write_picture(folder / "yellow.png", (200, 200, 0))
    opened = Library(place, encoder)
    opened.index(folder)
    assert paths(opened.search(text=["red", "green"], k=1)) == ["yellow.png"]
    assert paths(opened.search(text="green", image=folder / "red.png", k=1)) == ["yellow.png"]
    weighted = opened.search(text="green", image=folder / "red.png", weights={"image": 9}, k=1)
    assert paths(weighted) == ["red.png"]
    query = encoder.encode(text="green").numpy()
    assert paths(opened.nearest(query, k=1)) == paths(opened.nearest(query[0], k=1)) == ["green.jpg"]


@pytest.mark.parametrize("wrong", [{}, {"text": []}, {"text": "a", "k": 0}, {"text": "a", "modality": "viedo"}])
def test_wrong_queries(wrong: dict, folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    with pytest.raises(ValueError):
        opened.search(**wrong)


def test_searching_needs_a_library(tmp_path: Path, encoder: FakeEncoder) -> None:
    with pytest.raises(LibraryError, match="index a folder first"):
        Library(tmp_path / "new", encoder).search(text="red")
    assert not (tmp_path / "new").exists()
    with pytest.raises(LibraryError, match="not a folder"):
        Library(tmp_path / "new", encoder).index(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(LibraryError, match="is the library itself"):  # whose files would be left out without a word
        Library(tmp_path, encoder).index(tmp_path / "link")


def test_only_what_is_new_is_encoded(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    Library(place, encoder).index(folder)
    encoder.encoded.clear()
    opened = Library(place, encoder)
    assert str(opened.index(folder)) == "4 unchanged" and not encoder.encoded
    write_picture(folder / "blue.png", (0, 0, 250))
    assert str(opened.index(folder)) == "1 added, 4 unchanged"
    assert encoder.encoded == {"image": 1}


def test_touched_changed_and_deleted_files(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    ids = {entry.path: entry.id for entry in opened.entries()}
    encoder.encoded.clear()
    os.utime(folder / "red.png", ns=(1, 1))  # a new time, the same contents
    assert opened.index(folder).changed == 1 and not encoder.encoded
    assert str(opened.index(folder)) == "4 unchanged"

    write_picture(folder / "red.png", (0, 0, 250), (90, 20))
    assert opened.index(folder).changed == 1 and encoder.encoded == {"image": 1}
    assert paths(opened.search(text="blue", k=1)) == ["red.png"]
    assert {entry.path: entry.id for entry in opened.entries()} == ids

    (folder / "red.png").unlink()
    assert opened.index(folder).removed == 1 and len(opened) == 3
    assert paths(opened.search(text="blue", modality="image")) == ["green.jpg"]


def test_renames_are_followed(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    ids = {entry.digest: entry.id for entry in opened.entries()}
    encoder.encoded.clear()
    (folder / "red.png").rename(folder / "animals" / "crimson.png")
    (folder / "animals").rename(folder / "beasts")
    report = opened.index(folder)
    assert (report.renamed, report.added, report.removed) == (3, 0, 0) and not encoder.encoded
    assert {entry.digest: entry.id for entry in opened.entries()} == ids
    found = opened.search(text="red", k=1)[0]
    assert found.path == folder / "beasts" / "crimson.png" and found.caption == "crimson"
    assert opened.search(audio=folder / "beasts" / "tone.wav", k=1)[0].duration == pytest.approx(0.5)


def test_copies_are_not_encoded_again(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    encoder.encoded.clear()
    shutil.copyfile(folder / "red.png", folder / "copy.png")
    assert opened.index(folder).added == 1 and not encoder.encoded
    assert sorted(paths(opened.search(text="red", k=2))) == ["copy.png", "red.png"]


def test_many_rows_are_changed_some_at_a_time(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    sizes: list[int] = []
    add = type(opened.store).add
    monkeypatch.setattr(type(opened.store), "add", lambda store, rows: (sizes.append(len(rows)), add(store, rows))[1])
    monkeypatch.setattr(changing, "_ROWS_AT_ONCE", 2)
    assert opened.add_tags({item.id: ["new"] for item in opened.items()}) == 4
    for path in ("red.txt", "animals/green.txt", "animals/tone.txt"):
        (folder / path).write_text("something else", encoding="utf-8")
    assert opened.index(folder).changed == 3
    assert sizes == [2, 2, 2, 1]
    assert {item.tags for item in opened.items()} == {("new",)}


def test_of_many_equal_files_each_is_looked_for_once(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(known_items, "_is_gone", lambda path: bool(looked.append(path)))
    for n in range(5):
        shutil.copyfile(folder / "red.png", folder / f"{n}.png")
    opened = Library(place, encoder)
    opened.index(folder)
    for n in range(5, 15):
        shutil.copyfile(folder / "red.png", folder / f"{n}.png")
    assert opened.index(folder).added == 10 and len(looked) == 6


def test_contents_change_places(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    """The row that a file could be copied from is overwritten in the same run."""
    opened = Library(place, encoder)
    opened.index(folder)
    shutil.copyfile(folder / "red.png", folder / "z.png")
    write_picture(folder / "red.png", (0, 0, 250), (17, 17))
    report = opened.index(folder)
    assert (report.added, report.changed, report.problems) == (1, 1, {})
    assert paths(opened.search(text="red", k=1)) == ["z.png"]
    assert paths(opened.search(text="blue", k=1)) == ["red.png"]
    a, b = folder / "z.png", folder / "red.png"
    a.rename(folder / "t")
    b.rename(a)
    (folder / "t").rename(b)
    opened.index(folder)
    assert paths(opened.search(text="red", k=1)) == ["red.png"]


def test_new_captions_need_no_encoding(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    encoder.encoded.clear()
    (folder / "animals" / "green.txt").write_text("Another animal.")
    assert opened.index(folder).changed == 1 and not encoder.encoded
    assert opened.search(text="green", k=1)[0].caption == "Another animal."


def test_bad_files_are_told_skipped_and_remembered(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / "animals" / "green.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "empty.md").write_bytes(b" \n")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    opened = Library(place, encoder)
    report = opened.index(folder)
    bad = {"truncated.jpg", "text.png", "empty.wav", "empty.md", "binary.txt"}
    assert {Path(path).name for path in report.problems} == bad and report.added == 4
    assert all(report.problems.values())

    reads: list[str] = []
    original = reading.digest_of
    monkeypatch.setattr(reading, "digest_of", lambda path: reads.append(Path(path).name) or original(path))
    again = Library(place, encoder).index(folder)
    assert again.problems == report.problems and not reads
    (folder / "truncated.jpg").write_bytes(whole)
    (folder / "empty.wav").unlink()
    saved: list[int] = []
    write = manifests._write
    monkeypatch.setattr(manifests, "_write", lambda path, rows: saved.append(len(rows)) or write(path, rows))
    mended = opened.index(folder)
    assert saved == [3]
    assert reads == ["truncated.jpg"] and mended.added == 1
    assert {Path(path).name for path in mended.problems} == bad - {"truncated.jpg", "empty.wav"}


def test_a_file_gone_bad_is_not_found_any_more(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    (folder / "red.png").write_bytes(b"broken")
    report = opened.index(folder)
    assert report.removed == 1 and len(opened) == 3 and len(report.problems) == 1
    assert Library(place, encoder).index(folder).removed == 0


def test_what_cannot_be_read_now_stays_and_is_tried_again(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    write_picture(folder / "blue.png", (0, 0, 250))

    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "digest_of", refuse)
        os.utime(folder / "red.png", ns=(1, 1))
        report = opened.index(folder)
    assert {Path(p).name for p in report.problems} == {"red.png", "blue.png"} and len(opened) == 4
    assert str(opened.index(folder)) == "1 added, 1 changed, 3 unchanged"


def test_a_folder_out_of_sight_is_not_gone(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    hide_animals(monkeypatch)
    assert opened.index(folder).removed == 0 and len(opened) == 4


def test_a_file_that_changes_while_it_is_read_is_left_for_later(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Library(place, encoder)
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "is_still", lambda file: not file.path.endswith("red.png"))
        report = opened.index(folder)
    assert report.added == 3 and "changed while" in report.problems[str(folder / "red.png")]
    assert opened.index(folder).added == 1


def test_several_folders_and_the_library_inside_one(tmp_path: Path, folder: Path, encoder: FakeEncoder) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_picture(other / "blue.png", (0, 0, 250))
    opened = Library(folder / "visible-library", encoder)
    opened.index(folder)
    opened.index(other)
    assert len(opened) == 5
    assert opened.index(folder).unchanged == 4 and len(opened) == 5
    assert opened.index(folder / "animals").unchanged == 2 and len(opened) == 5


def test_a_folder_is_one_however_it_is_spelled(
    folder: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Library(folder / ".one-peace", encoder).index(folder)
    monkeypatch.chdir(folder / "animals")
    opened = Library(Path("..", ".one-peace"), encoder)
    assert str(opened.index("..")) == "4 unchanged" and opened.path == folder / ".one-peace"
    assert paths(opened.search(text="red", folder="../animals", modality="image")) == ["green.jpg"]
    for elsewhere in (folder, folder.parent):
        monkeypatch.chdir(elsewhere)
        assert paths(opened.search(text="red", folder="animals", modality="image")) == ["green.jpg"]
        assert len(find_duplicates(opened, Filters(folder="animals"))) == 0
    for nowhere in ("animal", str(folder / "animal")):
        with pytest.raises(QueryError, match=r"no file of the library is below"):
            opened.search(text="red", folder=nowhere)
        with pytest.raises(QueryError, match=r"no file of the library is below"):
            opened.nearest(np.eye(1, encoder.dim), folder=nowhere)
        with pytest.raises(QueryError, match=r"no file of the library is below"):
            list(opened.vectors(Filters(folder=nowhere)))  # for exports, tags and duplicates too
    monkeypatch.chdir(folder / "animals")
    assert opened.find("../red.png") is not None
    assert opened.add([("../red.png", "")]).unchanged == 1 and len(opened) == 4


def test_files_of_a_folder_that_was_moved_are_recognised(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    shutil.copyfile(folder / "red.png", folder / "again.png")
    opened.index(folder)
    ids = {item.id for item in opened.items()}
    moved = folder.rename(folder.with_name("moved"))
    report = opened.index(moved)
    assert (report.renamed, report.added) == (5, 0) and {item.id for item in opened.items()} == ids
    assert all(item.path.is_relative_to(moved) for item in opened.items())
    shutil.copytree(moved, folder)  # what is where it was is another file of the same contents
    assert opened.index(folder).added == 5 and len(opened) == 10


def test_no_pipe_is_waited_for_and_any_date_is_kept(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "red.txt")
    (folder / "zero.wav").symlink_to("/dev/zero")
    os.utime(folder / "red.png", ns=(1, 330 * 366 * 24 * 3600 * 10**9))  # year 2300: more than 64 bits of nanoseconds
    opened = Library(place, encoder)
    report = opened.index(folder)
    assert {Path(path).name: problem for path, problem in report.problems.items()} == {
        "pipe.png": "is not a regular file",
        "zero.wav": "is not a regular file",
    }
    assert report.added == 4 and opened.index(folder).unchanged == 4


def test_single_files_with_captions(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    report = opened.add([(folder / "red.png", "Rouge"), (folder / "missing.png", "")])
    assert report.added == 1 and list(report.problems) == [str(folder / "missing.png")]
    assert opened.search(text="red")[0].caption == "Rouge"
    assert opened.add([(folder / "animals" / "green.jpg", "")]).removed == 0 and len(opened) == 2
    assert opened.add([(folder / "red.png", "")]).unchanged == 1
    os.utime(folder / "red.png", ns=(1, 1))
    assert opened.add([(folder / "red.png", "")]).changed == 1
    assert opened.search(text="red")[0].caption == "Rouge"  # what was said once stays
    shutil.copyfile(folder / "red.png", folder / "another one.png")
    opened.add([(folder / "another one.png", "")])
    copy = opened.find(folder / "another one.png")
    assert copy is not None and copy.caption == "another one"
    opened.remove([copy.id])
    with pytest.raises(LibraryError, match=r"another one\.png cannot have the id .*red\.png has"):
        opened.add([(copy.path, "")], ids={str(copy.path): report.items[str(folder / "red.png")]})
    assert opened.add([(copy.path, "")], ids={str(copy.path): copy.id}).items == {str(copy.path): copy.id}


def test_a_model_is_never_mixed_with_another(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    Library(place, encoder).index(folder)
    with pytest.raises(LibraryError, match="index again"):
        Library(place, FakeEncoder("fake-2"))
    late = Library(place.parent / "late", FakeEncoder("fake-2"))  # opened before the other one makes it
    Library(place.parent / "late", encoder).index(folder)
    with pytest.raises(LibraryError, match="index again"):
        late.index(folder)


@pytest.mark.parametrize("engine", ["sqlite", "lance"])
def test_an_open_library_sees_that_it_was_made_anew(
    folder: Path, place: Path, encoder: FakeEncoder, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "sqlite":
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
    else:
        pytest.importorskip("lancedb")
    opened = Library(place, encoder)
    opened.index(folder)
    erase_library(place)
    with pytest.raises(LibraryError, match="index a folder first"):
        opened.search(text="red")
    assert len(opened) == 0
    Library(place, encoder).add([(folder / "red.png", "")])
    assert paths(opened.search(text="red")) == ["red.png"]
    erase_library(place)
    Library(place, FakeEncoder("fake-2")).index(folder)
    for use in (lambda: opened.search(text="red"), opened.items, lambda: opened.add([(folder / "red.png", "")])):
        with pytest.raises(LibraryError, match="another model, fake-2|made with another model"):
            use()


@pytest.mark.parametrize("kept", ["calibration", "rejected"])
def test_what_was_committed_is_not_denied_for_want_of_room(
    folder: Path, place: Path, encoder: FakeEncoder, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Library(place, encoder)
    opened.add([(folder / "animals" / "tone.wav", "")])
    (folder / "empty.wav").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("one_peace.search.calibration.np.savez" if kept == "calibration" else "json.dump", full)
        report = opened.add([(folder / "red.png", ""), (folder / "empty.wav", "")])
    assert report.added == 1 and len(report.problems) == 1
    assert paths(opened.search(text="red", modality="image")) == ["red.png"]
    assert {file.name for file in place.iterdir() if file.is_file()} <= {
        "library.json",
        "calibration.npz",
        "rejected.json",
        "writer.lock",
    }


def test_the_model_is_noted_and_loaded_by_name(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: asked.append(name) or encoder)
    Library(place).index(folder)
    Library(place.parent / "other", "my/model").index(folder)
    assert len(Library(place.parent / "other")) == 4
    assert asked == ["one-peace-nano", "my/model", "my/model"]
    Library(place.parent / "third", encoder, "handed over").index(folder)
    manifest = read_manifest(place.parent / "third")
    assert manifest is not None and (manifest.model, manifest.dim) == ("handed over", encoder.dim)
    monkeypatch.chdir(folder)  # a path is noted so that it can be loaded from anywhere
    assert Library(place.parent / "fourth", "animals").space.model == str(folder / "animals")


def test_damaged_and_later_libraries(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    Library(place, encoder).index(folder)
    (place / "rejected.json").write_text("{")
    assert Library(place, encoder).index(folder).unchanged == 4
    shutil.copyfile(place / "library.json", place.parent / "whole.json")
    (place / "library.json").write_text('{"format": 99}')
    with pytest.raises(LibraryError, match="another version"):
        Library(place, encoder)
    whole = json.loads((place.parent / "whole.json").read_text())
    without = {key: value for key, value in whole.items() if key != "dim"}
    for contents in ("{", json.dumps(without), json.dumps({**whole, "more": 1})):
        (place / "library.json").write_text(contents)
        with pytest.raises(LibraryError, match="damaged"):
            Library(place, encoder)
    shutil.copyfile(place.parent / "whole.json", place / "library.json")
    shutil.rmtree(place / "vectors")
    with pytest.raises(LibraryError, match="lost its vectors.*--rebuild"):
        Library(place, encoder).search(text="red")
    assert not (place / "vectors").exists()


def test_small_libraries_need_no_extra(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engines, "find_spec", lambda name: None)
        Library(place, encoder).index(folder)
    assert (place / "vectors" / "items.sqlite").is_file()
    opened = Library(place, encoder)  # and stays what it is where LanceDB is there
    assert str(opened.index(folder)) == "4 unchanged"
    assert paths(opened.search(text="red", k=1)) == ["red.png"]


def test_a_library_in_lancedb_names_the_missing_extra(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    Library(place, encoder).index(folder)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'one-peace\[search\]'"):
        Library(place, encoder).search(text="red")


def test_another_model_begins_anew_when_told_to(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    Library(place, encoder).index(folder)
    erase_library(place)
    other = FakeEncoder("fake-2")
    opened = Library(place, other)
    assert len(opened) == 0 and opened.index(folder).added == 4 and other.encoded["image"] == 2
    manifest = read_manifest(place)
    assert manifest is not None and manifest.fingerprint == "fake-2"
    (place / "library.json").write_text('{"format": 1}')
    erase_library(place)
    assert Library(place, encoder).index(folder).added == 4


@pytest.mark.parametrize("vectors", [None, "own"])
def test_what_killed_erasing_left_of_another_model_is_not_mixed_in(
    folder: Path, place: Path, encoder: FakeEncoder, vectors: str | None
) -> None:
    store = vectors and str(place / vectors)
    Library(place, FakeEncoder("fake-2"), store=store).index(folder)
    (place / "library.json").unlink()
    assert Library(place, encoder, store=store).index(folder).added == 4
    assert Library(place, encoder).index(folder).unchanged == 4


def test_vectors_may_be_kept_elsewhere(
    folder: Path, place: Path, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    Library(place, encoder, store="elsewhere").index(folder)
    assert not (place / "vectors").exists()
    monkeypatch.chdir(folder)
    assert len(Library(place, encoder)) == len(Library(place, encoder, store="../elsewhere")) == 4
    with pytest.raises(LibraryError, match="elsewhere"):
        Library(place, encoder, store=str(tmp_path / "third"))
    with pytest.raises(LibraryError, match="index into another place"):
        erase_library(place)
    with pytest.raises(OtherModelError):
        Library(tmp_path / "second", FakeEncoder("fake-2"), store=elsewhere).index(folder)


@pytest.mark.parametrize(("given", "kept"), [("elsewhere", "{0}/elsewhere"), ("library/own", "own")])
def test_an_address_relative_to_the_working_directory_of_then_is_followed(
    folder: Path,
    place: Path,
    tmp_path: Path,
    encoder: FakeEncoder,
    given: str,
    kept: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Library(place, encoder, store=str(tmp_path / given)).index(folder)
    manifest = json.loads((place / "library.json").read_text())
    (place / "library.json").write_text(json.dumps(manifest | {"address": given}))
    monkeypatch.chdir(folder)
    with pytest.raises(LibraryError, match=f"lost its vectors in {place / given}"):
        Library(place, encoder)
    monkeypatch.chdir(tmp_path)
    opened = Library(place, encoder, store=given)
    assert len(opened) == len(Library(place, encoder)) == 4
    assert opened.index(folder).unchanged == 4
    monkeypatch.chdir(folder)
    assert json.loads((place / "library.json").read_text())["address"] == kept.format(tmp_path)
    assert len(Library(place, encoder)) == 4
    monkeypatch.chdir(tmp_path)
    (place / "library.json").write_text(json.dumps(manifest | {"address": given, "fingerprint": "fake-2"}))
    with pytest.raises(LibraryError, match="lost its vectors"):
        Library(place, FakeEncoder("fake-2"))


def test_a_librarys_own_folder_is_no_place_for_vectors(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    for taken in (place, place / "uploads", place / "uploads" / "own"):
        with pytest.raises(LibraryError, match="a folder of their own"):
            Library(place, encoder, store=str(taken))
    Library(place, encoder, store=str(place / "own")).index(folder)
    manifest = json.loads((place / "library.json").read_text())
    (tmp := place.parent / "beside").mkdir()
    for address in (".", "../beside", str(tmp), "own/../.."):
        (place / "library.json").write_text(json.dumps(manifest | {"address": address}))
        with pytest.raises(LibraryError, match="index into another place"):
            erase_library(place)
    assert tmp.is_dir() and (place / "own").is_dir()


def test_items_by_id(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    opened = Library(place, encoder)
    report = opened.index(folder)
    red = report.items[str(folder / "red.png")]
    assert opened.item(red).path == opened.content(red) == folder / "red.png"
    assert opened.item(red).size == (folder / "red.png").stat().st_size
    thumbnail = opened.thumbnail(red)
    assert thumbnail is not None and thumbnail.startswith(b"\xff\xd8")
    assert opened.find(folder / "red.png") == opened.item(red) and opened.find("nowhere") is None
    assert opened.statistics() == {"audio": 1, "image": 2, "text": 1}
    assert [item.path.name for item in opened.items()] == ["green.jpg", "tone.wav", "notes.md", "red.png"]
    assert opened.index(folder).items == report.items
    for mistake, message in (
        (lambda: opened.remove(red), "ids are a list"),
        (lambda: opened.add(["a.png"]), "caption"),
    ):
        with pytest.raises(TypeError, match=message):
            mistake()
    assert opened.remove([red, "nothing"]) == 1 and len(opened) == 3 and opened.remove([]) == 0
    with pytest.raises(LibraryError, match=red):
        opened.item(red)
    assert opened.add([(folder / "red.png", "", ["warm"])]).items == {str(folder / "red.png"): opened.items()[-1].id}


def test_tags_are_kept_and_filtered_by(folder: Path, place: Path, encoder: FakeEncoder) -> None:
    (folder / "red.txt").write_text("A red thing.\ntags=warm")
    opened = Library(place, encoder)
    items = opened.index(folder).items
    green = items[str(folder / "animals" / "green.jpg")]
    red = items[str(folder / "red.png")]
    assert opened.add_tags({green: ["wet"], red: ["bright"], "nothing": ["x"]}) == 1, "its .txt speaks of tags"
    assert opened.add_tags({green: ["cold"], red: []}) == 1 and opened.item(red).tags == ("warm",)
    assert paths(opened.search(text="red", filters=Filters(tag=("cold",)))) == ["green.jpg"]
    assert sorted(paths(opened.search(text="red", filters=Filters(tag=("cold", "warm"))))) == ["green.jpg", "red.png"]
    assert str(opened.index(folder)) == "4 unchanged"
    write_picture(folder / "animals" / "green.jpg", (20, 210, 40))
    (folder / "red.txt").write_text("A red thing.\ntags=hot")
    assert opened.index(folder).changed == 2
    tags = {item.path.name: item.tags for item in opened.items()}
    assert tags["green.jpg"] == ("cold", "wet") and tags["red.png"] == ("hot",)
    (folder / "red.txt").write_text("A red thing.\ntags=")
    (folder / "animals" / "green.txt").write_text("tags=")
    write_picture(folder / "animals" / "green.jpg", (20, 220, 40))
    assert opened.index(folder).changed == 2 and not any(item.tags for item in opened.items())


def test_what_lies_in_the_library_is_not_taken_for_lost(folder: Path, encoder: FakeEncoder) -> None:
    place = folder / ".one-peace"
    (place / "uploads").mkdir(parents=True)
    write_picture(place / "uploads" / "blue.png", (0, 0, 250))
    opened = Library(place, encoder)
    opened.add([(place / "uploads" / "blue.png", "")])
    assert opened.index(folder).removed == 0 and len(opened) == 5
    (place / "uploads" / "blue.png").unlink()
    assert opened.index(folder).removed == 1


def test_locating_a_library(folder: Path, encoder: FakeEncoder) -> None:
    with pytest.raises(LibraryError, match="one-peace index"):
        locate_library(folder)
    (folder / "two words").mkdir()
    with pytest.raises(LibraryError, match="one-peace index '.*/two words'$"):  # to be pasted
        locate_library(folder / "two words")
    for no_folder in ("red.png", "none"):
        with pytest.raises(LibraryError, match=f"{no_folder} is no folder"):
            locate_library(folder / no_folder)
    Library(folder / ".one-peace", encoder).index(folder)
    assert locate_library(folder) == locate_library(folder / ".one-peace") == folder / ".one-peace"


def test_one_writer_at_a_time(folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_folder, "PATIENCE", 0.1)
    opened = Library(place, encoder)
    opened.index(folder)
    hold = (
        "import sys; from pathlib import Path; from one_peace.data.lock import writer_lock\n"
        f"with writer_lock(Path({str(place / 'writer.lock')!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(FolderBusyError, match=f"process {process.pid} "):
            opened.index(folder)
        assert paths(Library(place, encoder).search(text="red", k=1)) == ["red.png"]  # reading goes on
        process.kill()
    assert opened.index(folder).unchanged == 4  # the dead process's lock is no obstacle
    with writer_lock(place / "writer.lock"), pytest.raises(FolderBusyError):
        opened.index(folder)


def test_a_writer_that_comes_while_another_writes_shortly_waits(
    folder: Path, place: Path, encoder: FakeEncoder
) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    with ThreadPoolExecutor(1) as pool:
        with writer_lock(place / "writer.lock"):
            indexing = pool.submit(opened.index, folder)
            assert not wait([indexing], timeout=0.1).done
        assert indexing.result().unchanged == 4


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from one_peace.search import indexing
from one_peace.search.library import Library
from fake_encoder import FakeEncoder
indexing._BATCH = 4
commit = indexing.Indexing._commit
def tell(self, batch):
    commit(self, batch)
    print(self.store.count(), flush=True)
indexing.Indexing._commit = tell
Library(sys.argv[2], FakeEncoder()).index(sys.argv[1])
"""


def test_killed_while_indexing(tmp_path: Path, place: Path, encoder: FakeEncoder) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for n in range(120):
        write_picture(many / f"{n:03}.png", (2 * n, 255 - 2 * n, n))
    command = [sys.executable, "-c", _KILLED, str(many), str(place), str(Path(__file__).parents[1] / "support")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (committed := int(process.stdout.readline())) < 12:
            pass
        process.send_signal(signal.SIGKILL)
        committed = max([committed, *map(int, process.stdout.read().split())])
    opened = Library(place, encoder)
    there = len(opened)
    assert committed <= there <= 120
    before = {entry.id for entry in opened.entries()}
    report = opened.index(many)
    assert report.unchanged == there and report.added == encoder.encoded["image"] == 120 - there
    assert len(opened) == 120 and before <= {entry.id for entry in opened.entries()}
    query = np.asarray(encoder.encode(image=many / "007.png"))
    assert paths(opened.nearest(query, k=1)) == ["007.png"]


def test_big_files_make_small_batches(
    folder: Path, place: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "_BATCH_BYTES", 1)
    for n in range(5):
        write_sound(folder / f"{n}.flac", 100 * (n + 1))
    assert Library(place, encoder).index(folder).added == 9


def test_progress_is_silent_unless_asked(
    folder: Path, place: Path, encoder: FakeEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Library(place, encoder)
    opened.index(folder)
    assert capsys.readouterr() == ("", "")
    write_picture(folder / "blue.png", (0, 0, 250))
    opened.index(folder, progress=True)
    assert "indexing" in capsys.readouterr().err
