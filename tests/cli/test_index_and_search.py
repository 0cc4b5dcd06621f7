from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from one_peace.cli.index import index
from one_peace.cli.search import search
from one_peace.search import indexing, library
from search.conftest import encoder, folder
from search.fake_encoder import FakeEncoder

__all__ = ["encoder", "folder"]  # fixtures

app = typer.Typer()
app.command()(index)
app.command()(search)
runner = CliRunner()


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, encoder: FakeEncoder) -> None:
    monkeypatch.setattr(library, "_load", lambda name, device: encoder)


def call(*words: object, status: int = 0) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.output


def test_index_says_what_it_did(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"broken")
    output = call("index", folder)
    assert f"not indexed: {folder / 'broken.png'}: " in output
    assert "4 added, 1 not readable, in " in output and f"4 files in {folder / '.one-peace'}" in output
    assert "4 unchanged" in call("index", folder)


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
    assert set(rows[0]) == {"rank", "score", "modality", "path", "caption", "duration"}


def test_any_mix_and_a_sheet(folder: Path, tmp_path: Path) -> None:
    call("index", folder)
    sheet = tmp_path / "sheet.png"
    words = ["--text", "red", "-t", "a \u732b", "--image", folder / "red.png", "--audio"]
    output = call("search", *words, folder / "animals" / "tone.wav", "--library", folder, "--sheet", sheet)
    assert f"contact sheet: {sheet}" in output
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 500 and picture.height > 300


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    call("search", "--library", folder, status=2)  # no query
    result = runner.invoke(app, ["search", "--text", "red", "--library", str(tmp_path)])
    assert result.exit_code == 1 and "one-peace index" in str(result.exception)
    call("index", folder)
    result = runner.invoke(app, ["search", "--text", "red", "--library", str(folder), "--modality", "video"])
    assert result.exit_code != 0


def test_importing_the_commands_is_cheap() -> None:
    code = (
        "import sys, one_peace.cli.index, one_peace.cli.search, one_peace.search\n"
        "assert not {'torch', 'numpy', 'lancedb', 'rich.progress', 'PIL.Image'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
