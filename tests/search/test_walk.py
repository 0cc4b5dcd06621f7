from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from fake_encoder import hide_animals, write_picture
from one_peace.search.file_kinds import Kind, kinds_for
from one_peace.search.walk import Walk, look_at_all, walk

ALL = kinds_for({"text", "image", "audio"})


def names(folder: Path, skip: str = ".one-peace", kinds: dict[str, Kind] = ALL) -> list[str]:
    found = walk(folder, kinds, folder / skip)
    assert not found.problems
    return sorted(os.path.relpath(path, folder) for path in found.found)


def test_what_is_found(folder: Path) -> None:
    assert names(folder) == ["animals/green.jpg", "animals/tone.wav", "notes.md", "red.png"]
    assert names(folder, kinds=kinds_for({"audio"})) == ["animals/tone.wav"]
    assert names(folder, skip="animals") == ["notes.md", "red.png"]


def test_captions(folder: Path) -> None:
    (folder / "tagless.txt").write_text("a text of its own")
    (folder / "red.TXT").write_text("a text, for its ending is in capitals")
    found = walk(folder, ALL, folder / ".one-peace").found
    captions = {os.path.relpath(path, folder): file.caption for path, file in found.items()}
    assert captions["animals/green.jpg"] == "A green animal."
    assert captions["animals/tone.wav"] == "tone" and captions["red.png"] == "red"
    assert captions["notes.md"] == "" and captions["tagless.txt"] == captions["red.TXT"] == ""
    (folder / "red.txt").write_bytes(b"\xef\xbb\xbf  caf\xe9  au lait \r\n")
    assert walk(folder, ALL, folder / "x").found[str(folder / "red.png")].caption == "caf\ufffd au lait"


def test_files_of_other_kinds_are_counted_by_ending(folder: Path) -> None:
    for name in ("a.HEIC", "b.heic", "c.pdf", "README"):
        (folder / name).touch()
    assert walk(folder, ALL, folder / "x").left_out == {".py": 1, ".heic": 2, ".pdf": 1, "": 1}
    pictures = {"image": ALL["image"]}
    assert walk(folder / "animals", pictures, folder / "x").left_out == {".wav": 1}, "a caption is used"


def test_tags_are_on_a_line_of_their_own(folder: Path) -> None:
    (folder / "red.txt").write_text("A red thing.\ntags= warm , plain,,warm\ntags=flat\n")
    (folder / "animals" / "tone.txt").write_text("tags=loud")
    found = walk(folder, ALL, folder / "x").found
    assert (found[str(folder / "red.png")].caption, found[str(folder / "red.png")].tags) == (
        "A red thing.",
        ("flat", "plain", "warm"),
    )
    sound = found[str(folder / "animals" / "tone.wav")]
    assert (sound.caption, sound.tags) == ("tone", ("loud",))
    assert found[str(folder / "animals" / "green.jpg")].tags is None  # nothing is said of any
    (folder / "red.txt").write_text("tags=")
    assert walk(folder, ALL, folder / "x").found[str(folder / "red.png")].tags == ()


def test_links(folder: Path) -> None:
    (folder / "animals" / "round").symlink_to(folder)  # a loop
    (folder / "aaa").symlink_to(folder / "animals")  # is found under its own name
    (folder / "red2.png").symlink_to(folder / "red.png")
    outside = folder.parent / "outside"
    outside.mkdir()
    write_picture(outside / "blue.png", (0, 0, 255))
    (folder / "zzz").symlink_to(outside)
    assert names(folder) == [
        "animals/green.jpg",
        "animals/tone.wav",
        "notes.md",
        "red.png",
        "red2.png",
        "zzz/blue.png",
    ]


def test_what_cannot_be_looked_at_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    hide_animals(monkeypatch)
    found = walk(folder, ALL, folder / ".one-peace")
    assert {Path(path).name: problem for path, problem in found.problems.items()} == {
        "gone.png": "No such file or directory",
        "itself.png": "Too many levels of symbolic links",
        "animals": "Permission denied",
    }
    assert found.could_hold(str(folder / "animals" / "green.jpg"))
    assert not found.could_hold(str(folder / "animals2.jpg"))


def test_many_dangling_links_are_known_in_no_time() -> None:
    names = [f"/annex/{n}.png" for n in range(20_000)]
    found = Walk(problems=dict.fromkeys(names, "No such file or directory"))
    started = time.process_time()
    assert all(map(found.could_hold, names))
    assert time.process_time() - started < 5  # each was compared with each


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(folder: Path) -> None:
    write_picture(folder / os.fsdecode(b"caf\xe9.png"), (1, 2, 3))
    found = walk(folder, ALL, folder / ".one-peace")
    assert len(found.found) == 4
    assert list(found.problems.values()) == ["the name is not UTF-8; rename it"]


def test_single_files(folder: Path) -> None:
    files = [(folder / "red.png", "my caption"), (folder / "animals" / "green.jpg", "")]
    files += [(folder / "program.py", ""), (folder / "no.png", ""), (folder / "animals" / "tone.wav", "")]
    looked = look_at_all(files, ALL)
    assert [file.caption for file in looked.found.values()] == ["my caption", "A green animal.", ""]
    tagged = look_at_all([(folder / "red.png", "", ["b", " a", "b"])], ALL).found.values()
    assert [file.tags for file in tagged] == [("a", "b")]
    assert len(looked.problems) == 2
