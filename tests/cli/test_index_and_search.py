from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from fake_encoder import FakeEncoder
from one_peace.cli.duplicates import duplicates
from one_peace.cli.export import export
from one_peace.cli.index import index
from one_peace.cli.search import search
from one_peace.cli.tag import tag
from one_peace.errors import InputError
from one_peace.search import indexing, videos
from one_peace.search.queries import QueryError
from search.conftest import encoder, folder
from search.test_parts import RED, write_video

__all__ = ["encoder", "folder"]  # fixtures

app = typer.Typer()
app.command()(index)
app.command()(search)
app.command()(export)
app.command()(tag)
app.command()(duplicates)
runner = CliRunner()


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, encoder: FakeEncoder) -> None:
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: encoder)


def call(*words: object, status: int = 0) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


def test_index_says_what_it_did(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"broken")
    output = call("index", folder)
    assert "left out by ending: 1 .py" in output
    assert f"not indexed: {folder / 'broken.png'}: " in output
    assert "4 added, 1 not readable, in " in output and f"4 files in {folder / '.one-peace'}" in output
    assert "4 unchanged" in call("index", folder)


def test_names_cannot_break_lines_or_command_a_terminal(folder: Path) -> None:
    name = "a\n1  1.000  image \x1b[31mred \u732b.png"
    (folder / name).write_bytes((folder / "red.png").read_bytes())
    (folder / f"broken{name}").write_bytes(b"broken")
    (folder / "x.\x1b[2J").touch()
    shown = f"{folder}/a\\n1  1.000  image \\x1b[31mred \u732b.png"
    output = call("index", folder)
    assert "\x1b" not in output and "1 .\\x1b[2j" in output
    assert f"not indexed: {shown.replace('/a', '/brokena')}: " in output
    for command in (("search", "--library"), ("tag", "--labels", "red"), ("duplicates",)):
        more = ("--text", "red") if command[0] == "search" else ()
        output = call(*command, folder, *more)
        assert "\x1b" not in output and shown in output


@pytest.mark.parametrize("command", [("index",), ("tag", "--labels", "red, blue"), ("duplicates",)])
def test_a_file_that_is_there_in_part_is_told_as_such(
    folder: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise InputError(str(path), "is damaged")

    write_video(folder / "film.mp4", [RED])
    monkeypatch.setattr(videos, "decode_sound", fail)
    output = call(command[0], folder, *command[1:])
    assert f"indexed in part: {folder / 'film.mp4'}: taken in without a part of it, which is damaged" in output


def test_an_interruption_says_what_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_BATCH", 1)
    commit = indexing.Indexing._commit

    def interrupted(self: indexing.Indexing, batch: list) -> None:
        if self.store.count() == 2:
            raise KeyboardInterrupt
        commit(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(indexing.Indexing, "_commit", interrupted)
        assert f"interrupted: 2 files are kept in {folder / '.one-peace'}" in call("index", folder, status=130)
    assert "2 added, 2 unchanged" in call("index", folder)


def test_search_prints_a_table(folder: Path) -> None:
    call("index", folder)
    lines = call("search", "--text", "red", "--library", folder, "-k", 2, "--modality", "image").splitlines()
    assert len(lines) == 2
    assert lines[0].split() == ["1", lines[0].split()[1], "image", "red", str(folder / "red.png")]
    assert lines[1].index("image") == lines[0].index("image")
    assert "A green animal." in lines[1] and lines[1].endswith("green.jpg")


def test_search_prints_json(folder: Path, tmp_path: Path) -> None:
    call("index", folder, "--library", tmp_path / "elsewhere")
    sound = folder / "animals" / "tone.wav"
    rows = json.loads(call("search", "--audio", sound, "--library", tmp_path / "elsewhere", "--json"))
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["path"] == str(sound) and rows[0]["duration"] == pytest.approx(0.5)
    assert {"id", "standing", "why", "part", "start", "tags", "size"} < set(rows[0])
    assert rows[0]["why"] == [pytest.approx(rows[0]["score"], abs=1e-5)]


def test_any_query(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    call("index", folder)
    base = ["search", "--library", folder, "--json"]
    like = json.loads(call(*base, "--like", folder / "red.png", "--modality", "image"))
    assert [Path(row["path"]).name for row in like] == ["green.jpg"]
    words = [*base, "-t", "red", "-t", "green", "--minus", "red", "--weight", "minus=2", "--where", "modality=image"]
    assert Path(json.loads(call(*words))[0]["path"]).name == "green.jpg"
    minus = [
        *base,
        "-t",
        "red",
        "-t",
        "green",
        "--minus",
        f"image={folder / 'red.png'}",
        "-k",
        1,
        "-w",
        "modality=image",
    ]
    assert Path(json.loads(call(*minus))[0]["path"]).name == "green.jpg"
    assert len(json.loads(call(*base, "-t", "red", "--minus", "e=mc2"))) == 4  # words, for e is no modality
    small = json.loads(call(*base, "-t", "red", "--where", "max-duration=1:00", "--no-calibration"))
    assert [row["modality"] for row in small] == ["audio"]
    given = json.loads(call(*base, "--input", f"image={folder / 'red.png'}", "-k", 1))
    assert Path(given[0]["path"]).name == "red.png"
    (folder / "words.txt").write_text("red")
    same = [json.loads(call(*base, *query, "-k", 3)) for query in (("-t", "red"), ("--input", "text=words.txt"))]
    assert same[0] == same[1]
    less = [json.loads(call(*base, "-t", "green", "--minus", words)) for words in ("red", "text=red", "text=words.txt")]
    assert less[0] == less[1] == less[2]
    red = given[0]["path"]
    like = [json.loads(call(*base, *query, "-k", 1)) for query in (("--like", red), ("--input", f"item={red}"))]
    assert like[0] == like[1]
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    for wrong, problem in (
        (["--input", f"text={folder / 'latin.txt'}"], "latin.txt: is not UTF-8 text"),
        (["--where", "tga=x"], "did you mean 'tag'"),
        (["--weight", "text=much"], "MODALITY=NUMBER"),
        (["--weight", "text=nan"], "finite number"),
        (["--weight", "minus=-1"], "minus is subtracted already"),
        (["--minus", f"imgae={folder / 'red.png'}"], "did you mean 'image'"),
        (["--rerank", 3], "jointly"),
    ):
        result = runner.invoke(app, [str(word) for word in (*base, "-t", "red", *wrong)])
        assert result.exit_code == 1 and problem in str(result.exception)


def test_uses_of_a_library(folder: Path, tmp_path: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "red.png").read_bytes())
    groups = json.loads(call("duplicates", folder, "--json"))
    assert sorted(map(sorted, groups)) == [[str(folder / "copy.png"), str(folder / "red.png")]]
    assert "1 groups; 1 files are near-duplicates" in call("duplicates", folder)
    (tmp_path / "labels.txt").write_text("red\n\ngreen\n")
    rows = json.loads(call("tag", folder, "--labels", tmp_path / "labels.txt", "-w", "modality=image", "--json"))
    assert [list(row["labels"]) for row in rows] == [["green"], ["red"], ["red"]]
    call("tag", folder / ".one-peace", "--labels", "red,green", "-w", "modality=image", "--write")
    tagged = json.loads(call("search", "--library", folder, "-t", "green", "--where", "tag=red", "--json"))
    assert {Path(row["path"]).name for row in tagged} == {"copy.png", "red.png"}
    told = call("tag", folder, "--labels", "red,green", "-w", "modality=image", "--least", "0.9")
    assert re.search(rf"^red [01]\.\d{{3}} +{folder / 'red.png'}$", told, re.MULTILINE), told
    assert re.search(rf"^- +{folder}", call("tag", folder, "--labels", "red", "--least", "1"), re.MULTILINE)
    call("tag", folder, "--labels", "red,green", "-w", "modality=image", "--least", "1", "--write")
    call("tag", folder, "--labels", "warm", "-w", "tag=red", "--write")
    again = json.loads(call("search", "--library", folder, "-t", "green", "--where", "tag=red", "--json"))
    assert len(again) == 2 and all("warm" in row["tags"] for row in again), "tags are added, and none taken away"
    assert "no such file" in runner.invoke(app, ["tag", str(folder), "--labels", "nolabels.txt"]).output
    assert "5 rows in" in call("export", tmp_path / "all.npz", "--library", folder)
    assert (tmp_path / "all.jsonl").is_file()


@pytest.mark.parametrize("wrong", [["--labels", " , "], ["--labels", "a,a"], ["--labels", "a", "--least", "2"]])
def test_nothing_is_indexed_for_labels_that_are_refused(folder: Path, wrong: list[str]) -> None:
    refused = runner.invoke(app, ["tag", str(folder), *wrong])
    assert isinstance(refused.exception, QueryError) and not (folder / ".one-peace").exists()


def test_beginning_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("index", folder)
    monkeypatch.setattr("one_peace.models.loading.load_embedder", lambda name, device: FakeEncoder("fake-2"))
    result = runner.invoke(app, ["index", str(folder)])
    assert result.exit_code == 1 and "--rebuild" in str(result.exception)
    assert "4 added" in call("index", folder, "--rebuild") and "4 unchanged" in call("index", folder)


def test_nothing_is_erased_before_a_new_beginning_is_possible(
    folder: Path, tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("index", folder)

    def load(name: str, device: str) -> FakeEncoder:
        if name == "one-peace-nanoo":
            raise ValueError("unknown model")
        return encoder

    monkeypatch.setattr("one_peace.models.loading.load_embedder", load)
    call("index", folder, "--rebuild", "--model", "one-peace-nanoo", status=1)
    call("index", tmp_path / "nowhere", "--rebuild", "--library", folder / ".one-peace", status=2)
    call("index", folder, "--rebuild", "--store", "nonsense://x", status=1)
    assert len(json.loads(call("search", "--text", "red", "--library", folder, "--json"))) == 4
    sent = folder / ".one-peace" / "uploads" / "ab" / "ab12" / "blue.png"
    sent.parent.mkdir(parents=True)
    sent.write_bytes((folder / "red.png").read_bytes())
    assert "1 uploaded files taken in again\n4 added, " in call("index", folder, "--rebuild")
    encoder.modalities = ("text",)
    output = call("index", folder, "--rebuild")
    assert "1 uploaded files are of no kind that this model takes" in output and "1 added, " in output


def test_any_mix_and_a_sheet(folder: Path, tmp_path: Path) -> None:
    call("index", folder)
    sheet = tmp_path / "sheets" / "sheet.png"
    words = ["--text", "red", "-t", "a \u732b", "--image", folder / "red.png", "--audio"]
    output = call("search", *words, folder / "animals" / "tone.wav", "--library", folder, "--sheet", sheet)
    assert f"contact sheet: {sheet}" in output
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 500 and picture.height > 300
    drawn = []
    for words in (["--image", folder / "red.png"], ["--input", f"image={folder / 'red.png'}"]):
        call("search", *words, "--library", folder, "--sheet", sheet)
        drawn.append(sheet.read_bytes())
    assert drawn[0] == drawn[1], "what was asked is on top, by whichever option"


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    call("search", "--library", folder, status=2)  # no query
    call("search", "--library", folder, "--text", "red", "--sheet", tmp_path / "sheet", status=2)
    result = runner.invoke(app, ["search", "--text", "red", "--library", str(tmp_path)])
    assert result.exit_code == 1 and "one-peace index" in str(result.exception)
    call("index", folder)
    for wrong in ("red.png", "image="):
        result = runner.invoke(app, ["search", "--library", str(folder), "--input", wrong])
        assert result.exit_code == 2 and "MODALITY=FILE" in result.output
    result = runner.invoke(app, ["search", "--text", "red", "--library", str(folder), "--modality", "viedo"])
    assert result.exit_code != 0


def test_importing_the_commands_is_cheap() -> None:
    code = (
        "import sys, one_peace.cli.index, one_peace.cli.search, one_peace.search\n"
        "assert not {'torch', 'numpy', 'lancedb', 'rich.progress', 'PIL.Image'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
