"""The commands parse, explain themselves and report wrong input in one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner, Result

import one_peace
from one_peace.cli.embed import write_embeddings
from one_peace.cli.main import COMMANDS, app


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_help_as_a_program() -> None:
    environment = {**os.environ, "COLUMNS": "120"}
    program = [sys.executable, "-m", "one_peace.cli.main", "--help"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_come_out_as_they_are_written(command: str) -> None:
    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        written = getattr(parameter, "help", None) or ""
        assert Text.from_markup(written).plain == written


def test_every_module_of_the_folder_is_a_command() -> None:
    import one_peace.cli

    folder = Path(one_peace.cli.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} - {
        "__init__",
        "main",
        "imports",
        "printable",
        "text_files",
        "written",
    } == set(COMMANDS)


def test_version() -> None:
    assert call("--version").output.strip() == one_peace.__version__


def test_unknown_command_names_the_nearest() -> None:
    result = call("serach")
    assert result.exit_code == 2
    assert "search" in result.output


def test_wrong_input_is_one_line() -> None:
    result = call("info", "no-such-model")
    assert result.exit_code == 1
    assert result.output.startswith("error: ") and "no-such-model" in result.output
    assert result.output.count("\n") == 1


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_DEBUG", "1")
    result = call("info", "no-such-model")
    assert isinstance(result.exception, ValueError)


def test_info_of_a_preset_counts_the_published_parameters() -> None:
    result = call("info", "one-peace")
    assert result.exit_code == 0, result.output
    total = next(line for line in result.output.splitlines() if line.strip().startswith("in all"))
    assert 3.8e9 < int(total.split()[-1].replace(",", "")) < 3.9e9
    assert "audio: adapter" in result.output and "without weights" in result.output


@pytest.mark.parametrize(
    ("model", "parts"), [("ofa-nano", ("token table", "encoder", "decoder")), ("mico-nano", ("tower", "text model"))]
)
def test_info_of_shipped_weights_of_other_families(model: str, parts: tuple[str, ...]) -> None:
    result = call("info", model)
    assert result.exit_code == 0, result.output
    assert all(part in result.output for part in (model, *parts, "in all", "model.safetensors"))


def test_info_of_a_saved_model(saved_model: Path) -> None:
    result = call("info", saved_model)
    assert result.exit_code == 0, result.output
    assert "fingerprint" in result.output and "model.safetensors" in result.output


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of random weights."""
    import dataclasses

    import torch

    from one_peace.modalities import get_modality
    from one_peace.modalities.text import TextProcessor
    from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
    from one_peace.models.one_peace.interface import OnePeace
    from one_peace.models.one_peace.model import OnePeaceEncoder
    from one_peace.models.one_peace.presets import preset

    folder = tmp_path_factory.mktemp("model") / "toy"
    vocabulary = train_tokenizer(["a red car", "a yellow flower", "two dogs"], 300)
    tokenizer = vocabulary if isinstance(vocabulary, Tokenizer) else Tokenizer(vocabulary)
    config = preset("nano", ("text", "image"))
    text = dataclasses.replace(config.modalities["text"], vocab_size=300)
    config = dataclasses.replace(config, name="toy", layers=1, modalities={**config.modalities, "text": text})
    torch.manual_seed(0)
    processors = {
        "text": TextProcessor(text, tokenizer),
        "image": get_modality("image").processor(config.modalities["image"], None),
    }
    OnePeace(OnePeaceEncoder(config), processors).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def test_embed_to_npz(saved_model: Path, picture: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "out.npz", tmp_path / "lines.txt"
    lines.write_text("a red car\n\ntwo dogs\n", encoding="utf-8")
    result = call("embed", picture, "--text", "a yellow flower", "--lines", lines, "-o", out, "--model", saved_model)
    assert result.exit_code == 0, result.output
    written = np.load(out)
    assert written["vectors"].shape == (5, 192) and written["vectors"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(written["vectors"], axis=1), 1, atol=1e-5)
    assert written["inputs"].tolist() == [str(picture), "a yellow flower", "a red car", "", "two dogs"]
    assert written["modalities"].tolist() == ["image", "text", "text", "text", "text"]
    model = one_peace.from_pretrained(saved_model)
    assert written["fingerprint"] == model.fingerprint
    np.testing.assert_allclose(written["vectors"][2], model.encode_text("a red car")[0], atol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".jsonl"])
def test_a_file_of_embeddings_is_replaced_whole_or_not_at_all(tmp_path: Path, ending: str) -> None:
    out, model = tmp_path / f"out{ending}", one_peace.from_pretrained("one-peace-nano")
    write_embeddings(out, np.zeros((1, 2), np.float32), ["before"], ["text"], model)
    before = out.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as of a full disk
    try:
        with pytest.raises(OSError, match=f"out{ending}"):
            write_embeddings(out, np.zeros((9_000, 2), np.float32), ["after"] * 9_000, ["text"] * 9_000, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_texts_that_are_not_utf8_are_named_and_can_be_skipped(saved_model: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    words = ("embed", tmp_path / "latin.txt", picture, "-o", tmp_path / "out.npz", "--model", saved_model)
    assert "latin.txt: is not UTF-8 text" in call(*words).output
    skipped = call(*words, "--skip")
    assert skipped.exit_code == 0 and "left out" in skipped.output, skipped.output
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["inputs"].tolist() == [str(picture)]


def test_embed_skips_what_cannot_be_read(saved_model: Path, picture: Path, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.png", tmp_path / "out.jsonl"
    bad.write_bytes(b"no picture")
    stopped = call("embed", bad, picture, "-o", out, "--model", saved_model)
    assert stopped.exit_code == 1 and "bad.png" in stopped.output and not out.exists()
    skipped = call("embed", bad, picture, "-o", out, "--model", saved_model, "--skip")
    assert skipped.exit_code == 0, skipped.output
    assert "left out" in skipped.output and "bad.png" in skipped.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["input"] for row in rows] == [str(picture)]
    assert len(rows[0]["vector"]) == 192
    other, unread = (tmp_path / os.fsdecode(name) for name in (b"r\xe9d.png", b"b\xe9d.png"))  # names not in UTF-8
    other.write_bytes(picture.read_bytes())
    unread.write_bytes(b"no picture")
    skipped = call("embed", other, unread, "-o", out, "--model", saved_model, "--skip")
    assert skipped.exit_code == 0, skipped.output
    assert json.loads(out.read_text(encoding="utf-8"))["input"] == str(other)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--text", "x", "-o", "out.csv"],
        ["--text", "x", "--workers", "2"],
        ["--text", "x", "--format", "lance"],
        [".", "--format", "hdf5"],
        [".", "--text", "x"],
        [".", "-o", "out.npz"],
    ],
)
def test_embed_refuses(arguments: list[str]) -> None:
    assert call("embed", *arguments).exit_code == 2


def test_one_very_long_line_is_refused_before_the_work(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a short one\n" * 1000 + "x" * 600_000, encoding="utf-8")
    result = call("embed", "--lines", lines, "-o", tmp_path / "out.npz", "--model", tmp_path / "none")
    assert result.exit_code == 2 and "600,000 characters" in " ".join(result.output.split())


def test_a_file_without_lines_is_nothing_to_embed(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").touch()
    result = call("embed", "--lines", tmp_path / "lines.txt", "-o", tmp_path / "out.npz", "--model", tmp_path / "none")
    assert result.exit_code == 2 and "nothing to embed" in result.output


def test_embed_refuses_an_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "data.xyz").touch()
    result = call("embed", tmp_path / "data.xyz")
    assert result.exit_code == 1
    assert "data.xyz" in result.output and "--lines" in result.output
    assert "none: no such file" in call("embed", tmp_path / "none").output
    assert "is a folder, which" in call("embed", tmp_path, tmp_path / "data.xyz").output
