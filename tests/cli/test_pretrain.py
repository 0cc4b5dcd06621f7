"""`one-peace pretrain` as users meet it: a modality of their own, and everything that can be wrong with the input."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from one_peace.checkpoints.registry import built_in_models
from one_peace.cli.main import app
from one_peace.data import shard_cache
from one_peace.models.one_peace.loading import from_pretrained
from pair_files import write_table

EXAMPLE = Path(__file__).parents[2] / "examples" / "add_a_modality.py"
SMALL = ("vocabulary=300", "steps=2", "batch_size=4", "log_every=1", "denoise_every=2", "drop_path=0.0")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))


def pretrain(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def one_line(result: Result) -> str:
    """The error of a command that told it in one line, and nothing else went wrong."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in result.output + result.stderr
    return line


def recipe(tmp_path: Path, path: object, *more: str) -> list[str]:
    """A recipe file for pictures at `path`, and settings."""
    text = f"""
model: nano
stage: {{partner: image, train_anchor: true, partner_mask: 0.75, joint_anchor_mask: 0.4, joint_partner_mask: 0.6875}}
steps: 2
batch_size: 4
vocabulary: 300
files: {{mine: {{path: "{path}"}}}}
"""
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return [str(tmp_path / "recipe.yaml"), *more, "--out", str(tmp_path / "run")]


def picture(seed: int) -> bytes:
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def test_a_modality_of_ones_own_from_files(tmp_path: Path) -> None:
    """Traces in .npy files, some broken; nothing of the project knows of them but the file given by --import."""
    folder = tmp_path / "traces"
    folder.mkdir()
    rows = ["path,text"]
    for number in range(20):
        name = f"{number}.npy"
        np.save(folder / name, np.random.default_rng(number).normal(size=(40 + 8 * (number % 5), 3)))
        if number % 10 < 3:
            (folder / name).write_bytes(b"no array")
        rows.append(f"{name},walking {number % 7}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "run"
    arguments = ("further-modality", "--import", EXAMPLE, "stage.partner=motion", f"files.pairs.path={folder}", *SMALL)
    result = pretrain(*arguments, "workers=1", "--out", out)
    assert result.exit_code == 0, result.output
    model = from_pretrained(out / "model")
    assert "motion" in model.modalities
    assert model.encode_modality("motion", [folder / "3.npy", folder / "4.npy"]).shape == (2, model.dim)
    before, after = (
        load_file(path / "model.safetensors") for path in (built_in_models()["one-peace-nano"], out / "model")
    )
    name = "adapters.image.patches.0.weight"
    assert (before[name].float() == after[f"encoder.{name}"]).all(), "what was there stays as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nano-image-txt"], "no pretrain recipe 'nano-image-txt'; shipped: audio-language"),
        (["nowhere.yaml"], "nowhere.yaml: the recipe cannot be read"),
        (["nano-image-text", "steps=many"], "steps is a whole number, not 'many'"),
        (["nano-image-text", "steps=1.5"], "steps is a whole number, not 1.5"),
        (["nano-image-text", "batch_size=0"], "batch_size is at least 1, not 0"),
        (["nano-image-text", "stage=image"], "stage is a mapping of settings, not 'image'"),
        (["nano-image-text", "optimizer.lr=high"], "optimizer: lr is a number, not 'high'"),
        (["nano-image-text", "optimizer.betas=[0.9, x]"], "optimizer: betas is a list of 2, each a number"),
        (["nano-image-text", "optimiser.lr=1"], "unknown key 'optimiser'; the nearest is 'optimizer'"),
        (["nano-image-text", "files=[1]"], "files is a mapping from names to sources of pairs, not"),
        (["nano-image-text", "data={"], "is no YAML"),
        (["further-modality"], "stage: missing partner"),
        (["further-modality", "stage.partner=smell"], "unknown modality 'smell'"),
        (["further-modality", "stage.partner=audio", "--import", "nowhere.py"], "nowhere.py: no such file"),
        (["vision-language", "model=huge"], "unknown model 'huge'"),
    ],
)
def test_wrong_recipes(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in one_line(pretrain(*arguments, "--out", tmp_path / "run"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "pairs.tsv: cannot be opened: No such file"),
        (b"", "pairs.tsv: is empty; its first line must name the columns"),
        (
            b"uniq_id\tpicture\tcaption\n1\tx\ty\n",
            "has no column 'image'; its columns are 'uniq_id', 'picture', 'caption'",
        ),
        (b"uniq_id\timage\twords\n1\tx\ty\n", "has no column 'text' or 'caption'"),
        (b"uniq_id\timage\tcaption\n", "data source without a single pair: mine"),
        (
            b"uniq_id\timage\tcaption\n" + b"1\tbroken\ta dog\n" * 9,
            "mine: nothing usable after 19 attempts. 19 pairs were left out: 19 unreadable image. The last one: ",
        ),
        (b"uniq_id\timage\tcaption\n" + b"1\tgone.png\ta dog\n" * 9, "missing file"),
    ],
)
def test_wrong_tables(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    if content is not None:
        path.write_bytes(content)
    assert message in one_line(pretrain(*recipe(tmp_path, path)))


def test_a_dead_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache.time, "sleep", lambda seconds: None)
    line = one_line(pretrain(*recipe(tmp_path, "http://127.0.0.1:9/train-{00..99}.tar")))
    assert "none of its 100 shards can be used (16 tried; http://127.0.0.1:9/train-00.tar: " in line


def test_a_checkpoint_of_another_shape(tmp_path: Path) -> None:
    table = write_table(tmp_path / "pairs.tsv", [picture(n) for n in range(8)])
    saved = built_in_models()["one-peace-nano"]
    bent = tmp_path / "bent"
    bent.mkdir()
    for file in saved.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (bent / file.name).write_bytes(file.read_bytes())
    tensors = load_file(saved / "model.safetensors")
    tensors["fusion.norms.text.weight"] = tensors["fusion.norms.text.weight"][:5].clone()
    save_file(tensors, bent / "model.safetensors")
    result = pretrain(*recipe(tmp_path, table, f"model={bent}"))
    assert "1 tensors do not fit" in one_line(result)
    assert "encoder.fusion.norms.text.weight: shape (5,), expected (192,)" in result.stderr
    (bent / "model.safetensors").write_bytes(b"half a file")
    assert "damaged or not a safetensors file" in one_line(pretrain(*recipe(tmp_path, table, f"model={bent}")))


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    table = write_table(tmp_path / "pairs.tsv", [picture(n) for n in range(8)])
    (tmp_path / "run").write_text("a file")
    assert str(tmp_path / "run") in one_line(pretrain(*recipe(tmp_path, table)))


def test_the_dry_run_tells_the_memory_of_each_device(tmp_path: Path) -> None:
    table = write_table(tmp_path / "pairs.tsv", [picture(n) for n in range(8)])
    result = pretrain(*recipe(tmp_path, table, "batch_size=8", "--dry-run", "--devices", "2"))
    assert result.exit_code == 0 and "memory per device, of 2" in result.output, result.output
    assert "batch_size=4 is no multiple of the 3 devices" in one_line(
        pretrain(*recipe(tmp_path, table, "--dry-run", "--devices", "3"))
    )


def test_the_dry_run_before_there_are_pairs(tmp_path: Path) -> None:
    """What the longest ones that there can be would cost, and what a run would end with."""
    asked = ("batch_size=8", "vocabulary=900", "data.caption_tokens=9", "--dry-run")
    result = pretrain(*recipe(tmp_path, tmp_path / "pairs.tsv", *asked))
    assert "pairs.tsv: cannot be opened" in one_line(result)
    told = {line.split()[0]: line.split()[-1] for line in result.output.splitlines() if " tokens " in line}
    assert told == {"text": str(8 * (1 + 9)), "image": str(8 * 17)}, "beside cls"
    assert "memory per device, of 1" in result.output
