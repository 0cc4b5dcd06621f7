from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fake_encoder import FakeEncoder, write_picture
from one_peace.search.library import Library


@pytest.mark.parametrize(("copied", "store"), [(False, None), (True, None), (False, "kept/here")])
def test_a_library_goes_where_its_folder_goes(
    folder: Path, encoder: FakeEncoder, copied: bool, store: str | None
) -> None:
    sent = folder / ".one-peace" / "uploads" / "blue.png"
    sent.parent.mkdir(parents=True)
    write_picture(sent, (0, 0, 250))
    before = Library(folder / ".one-peace", encoder, store=store and str(folder / ".one-peace" / store))
    before.index(folder)
    before.add([(sent, "")])
    ids = {item.path.relative_to(folder): item.id for item in before.items()}
    encoder.encoded.clear()
    there = folder.with_name("moved")
    if copied:
        shutil.copytree(folder, there)  # without the times of change
    else:
        folder.rename(there)
        (there / "notes.md").unlink()  # was not there any more when it was indexed again
        del ids[Path("notes.md")]
    opened = Library(there / ".one-peace", encoder)
    report = opened.index(there)
    assert not encoder.encoded and report.added == 0
    assert {item.path.relative_to(there): item.id for item in opened.items()} == ids


def test_what_stayed_behind_keeps_its_path(folder: Path, tmp_path: Path, encoder: FakeEncoder) -> None:
    """A library that is moved by itself, to where a file of the same name and another one's contents lies."""
    Library(tmp_path / "library", encoder).index(folder)
    (tmp_path / "other" / "media").mkdir(parents=True)
    write_picture(tmp_path / "other" / "media" / "red.png", (0, 0, 250), (300, 200))
    (folder / "notes.md").unlink()
    opened = Library((tmp_path / "library").rename(tmp_path / "other" / "library"), encoder)
    assert opened.index(tmp_path / "other" / "media").added == 1
    assert {item.path for item in opened.items()} == {
        folder / "red.png",
        folder / "animals" / "green.jpg",
        folder / "animals" / "tone.wav",
        tmp_path / "other" / "media" / "red.png",
    }


def test_a_file_that_is_known_in_both_places_is_one_item(folder: Path, encoder: FakeEncoder) -> None:
    Library(folder / ".one-peace", encoder).index(folder)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy, ignore=lambda *_: [".one-peace"])
    Library(folder / ".one-peace", encoder).index(copy)
    shutil.rmtree(copy)
    moved = Library(folder.rename(copy) / ".one-peace", encoder)
    assert moved.index(copy).added == 0
    assert sorted(item.path.name for item in moved.items()) == ["green.jpg", "notes.md", "red.png", "tone.wav"]
