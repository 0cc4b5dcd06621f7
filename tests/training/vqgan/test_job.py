"""Training of a VQGAN through the shared loop, and tables of codes made with it."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from one_peace.cli.main import app
from one_peace.data.picture_codes import make_picture_codes
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.models.ofa.presets import nano
from one_peace.models.vqgan import presets
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.loading import load_vqgan, save_vqgan
from one_peace.models.vqgan.model import Vqgan
from one_peace.tasks.coding import CodingFigures, read_pixels
from one_peace.tasks.ofa.infilling import ImageInfilling
from one_peace.tasks.ofa.task import PictureForm
from one_peace.training.finetuning.recipe import FinetuneRecipe, load_finetune_recipe
from one_peace.training.finetuning.run import finetune
from one_peace.training.vqgan.codebook import clusters, find_codebook
from tiny_ofa import vocabulary

TINY = VqganConfig(codes=16, code_width=8, width=32, multipliers=(1, 1), blocks=1, attention=())


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "PRESETS", presets.PRESETS)
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of a coloured square on white, with captions; a table of texts alone."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = ["image_id\timage\tcaption"]
    for number in range(8):
        picture = Image.new("RGB", (24, 24), "white")
        picture.paste((30 * number, 200 - 20 * number, 120), (3, 3, 12 + number, 21))
        picture.save(folder / f"{number}.png")
        lines.append(f"{number}\t{number}.png\ta square {number}&&number {number}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    (folder / "texts.tsv").write_text("uniq_id\ttext\n1\ta square\n")
    return folder


def recipe(folder: Path, **changes: Any) -> FinetuneRecipe:
    values: dict[str, Any] = {
        "task": {"kind": "picture-coding"},
        "model": "tiny",
        "tables": {"root": str(folder), "train": "train.tsv", "validation": "train.tsv"},
        "steps": 30,
        "batch_size": 4,
        "image_size": 16,
        "evaluate_every": 1000,
        "optimizer": {"lr": 3e-3, "clip_norm": 1.0, "weight_decay": 0.01},
        "log_every": 1,
        "save_every": 1000,
        "coding": {"crop": 8},
    }
    return FinetuneRecipe.from_dict(values | changes)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_coder_learns_pictures(tables: Path, tmp_path: Path) -> None:
    chosen = recipe(tables, steps=20, evaluate_every=5, coding={"uncoded": 10, "coldest": 0.5})
    figures = finetune(chosen, tmp_path, "cpu", lambda row: None)
    losses = [row for row in rows(tmp_path) if "total" in row]
    assert losses[-1]["lost"] < 0.7 * losses[0]["lost"]
    assert ["temperature" in row for row in losses] == [False] * 10 + [True] * 10
    assert losses[10]["temperature"] == 1.0 and losses[-1]["temperature"] == 0.5
    assert losses[0]["total"] == losses[0]["lost"], "nothing to pay for without codes"
    assert losses[-1]["total"] > losses[-1]["lost"], "unequal use of codes costs"
    assert [row["step"] for row in rows(tmp_path) if "psnr" in row] == [15, 20], "measured are codes"
    assert figures["best_by"] == "psnr" and figures["psnr"] > figures["psnr_mean_picture"]
    assert 1 < figures["perplexity"] <= figures["codes"] <= 16 and figures["examples"] == 8
    model = load_vqgan(tmp_path / "model")
    assert model.config == TINY
    measure = CodingFigures(16)
    table = TaskRows(tables / "train.tsv", ("image",), ("image",), tmp_path / "cache")
    pictures = torch.stack([read_pixels(table.row(index)[1], "", 16) for index in range(8)])
    with torch.no_grad():
        codes = model.encode(pictures)
        measure.add(pictures, codes, model.decode(codes))
    assert measure.result()["psnr"] == pytest.approx(figures["psnr"], abs=1e-3), "what is saved is what was measured"


def test_an_interrupted_run_continues_to_the_bit(tables: Path, tmp_path: Path) -> None:
    """Crops, mirrors, the codebook and the noise that codes are drawn by depend on the update alone; the codebook's
    update is the one that is done again."""
    chosen = recipe(tables, steps=4, save_every=2, micro_batch=2, coding={"crop": 8, "uncoded": 2})
    finetune(chosen, tmp_path / "whole", "cpu", lambda row: None)

    def crash(row: dict[str, Any]) -> None:
        if row.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(chosen, tmp_path / "cut", "cpu", crash)
    finetune(chosen, tmp_path / "cut", "cpu", lambda row: None)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    weights = [tmp_path / run / "model" / "model.safetensors" for run in ("cut", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_fresh_codebook_is_made_of_features() -> None:
    """The most probable code of a place is the nearest entry; what a picture loses by it is little."""
    torch.manual_seed(0)
    model, pictures = Vqgan(TINY), torch.rand(2, 3, 16, 16) * 2 - 1
    features = model.features(pictures).detach()
    places = features.permute(0, 2, 3, 1).flatten(0, 2)
    find_codebook(model, places, torch.Generator().manual_seed(0))
    codes = model.encode(pictures)
    assert torch.equal(codes.flatten(), torch.cdist(places, model.codebook.weight).argmin(dim=1))
    assert len(codes.unique()) == 16
    left = (model.codebook(codes).permute(0, 3, 1, 2) - features).square().mean()
    assert left < 0.7 * features.var(dim=(0, 2, 3)).mean()


def test_clusters() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0], [0.0, 50.0]])
    centres, left = clusters(points, 3, torch.Generator().manual_seed(0))
    assert sorted(centres.tolist()) == [[0.0, 0.5], [0.0, 50.0], [9.0, 0.5]]
    assert left == pytest.approx(4 * 0.25 / 5)
    centres, left = clusters(points[:1].repeat(4, 1), 3, torch.Generator().manual_seed(0))
    assert left == 0 and torch.isfinite(centres).all(), "fewer different points than clusters"


def test_figures_of_coders() -> None:
    measure = CodingFigures(4)
    with pytest.raises(ValueError, match="no pictures"):
        measure.result()
    pictures = torch.stack([torch.full((3, 2, 2), value) for value in (-1.0, 1.0)])
    measure.add(pictures, torch.tensor([[[0, 0]], [[1, 1]]]), pictures * 0.8)
    figures = measure.result()
    assert figures["psnr"] == pytest.approx(20) and figures["perplexity"] == pytest.approx(2)
    assert figures["psnr_mean_picture"] == pytest.approx(6.0206, abs=1e-3) and figures["codes"] == 2


def test_what_cannot_be_learned_is_left_out_or_refused(tables: Path, tmp_path: Path) -> None:
    tables = Path(shutil.copytree(tables, tmp_path / "tables"))
    (tables / "broken.tsv").write_text((tables / "train.tsv").read_text().replace("3.png", "none.png"))
    (tables / "useless.tsv").write_text("image\nnone.png\n")
    said: list[dict[str, Any]] = []
    held = {"root": str(tables), "train": "broken.tsv", "validation": "broken.tsv"}
    figures = finetune(recipe(tables, steps=1, batch_size=8, tables=held), tmp_path / "a", "cpu", said.append)
    assert figures["unusable"] == 1 and "row 4" in said[-1]["warning"] and "none.png" in said[-1]["warning"]
    one = {"root": str(tables), "train": "useless.tsv"}
    with pytest.raises(InputError, match="nothing usable"):
        finetune(recipe(tables, tables=one), tmp_path / "b", "cpu", lambda row: None)
    with pytest.raises(InputError, match="no column 'image'"):
        finetune(recipe(tables, tables={**one, "train": "texts.tsv"}), tmp_path / "b", "cpu", lambda row: None)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"image_size": 15}, "image_size=15 is no multiple of 2"),
        ({"coding": {"crop": 20}}, "crop=20 is more than the 16"),
        ({"coding": {"coldest": 2.0}}, "falls to coldest"),
        ({"coding": {"uncoded": -1}}, "at least 0"),
        ({"coding": {"uncoded": 30}, "model": "vqgan-nano"}, "leaves none of the 30 updates"),
        ({"coding": {"crops": 8}}, "unknown key 'crops'"),
        ({"model": "vqgan-nan"}, "presets are vqgan, vqgan-nano"),
        ({"engine": {"compile": True}}, "a VQGAN has none of"),
        ({"freeze": True}, "has no head"),
        ({"task": {"kind": "captioning"}}, "coding is for picture-coding"),
    )
    for changes, problem in wrong:
        with pytest.raises(ValueError, match=problem):
            finetune(recipe(tables, **changes), tmp_path / "c", "cpu", lambda row: None)


def test_from_pictures_to_a_drawing(tables: Path, tmp_path: Path) -> None:
    """The commands of the documentation, with models that learn for one update: what each makes, the next takes."""

    def run(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    coder, codes, drawer = tmp_path / "coder", tmp_path / "codes", tmp_path / "drawer"
    shape = dataclasses.replace(TINY, codes=512, width=8, multipliers=(1, 1, 1, 1), groups=8)
    save_vqgan(Vqgan(shape), tmp_path / "start")
    given = [f"data={tables / 'train.tsv'}", "tables.validation=null", "steps=1", "batch_size=2"]
    run("pretrain", "vqgan-nano", *given, f"checkpoint={tmp_path / 'start'}", "--out", coder)
    run("prepare", "picture-codes", codes, "--from", tables, "--coder", coder / "model", "--size", 64)
    assert [path.name for path in codes.iterdir()] == ["train.tsv"], "texts have no pictures"
    header, first = (codes / "train.tsv").read_text().splitlines()[:2]
    assert header.split("\t") == ["uniq_id", "codes", "caption"]
    name, numbers, caption = first.split("\t")
    assert (name, caption) == ("0", "a square 0")
    table = TaskRows(tables / "train.tsv", ("image",), ("image",), tmp_path / "cache")
    with torch.inference_mode():
        expected = load_vqgan(coder / "model").encode(read_pixels(table.row(0)[1], "", 64)[None])
    assert [int(number) for number in numbers.split()] == expected.flatten().tolist() and expected.numel() == 64
    made = [f"data={codes / 'train.tsv'}", "steps=1", "batch_size=2"]
    run("finetune", "ofa-nano-drawings", *made, "--out", drawer)
    models = ["--model", drawer / "model", "--coder", coder / "model"]
    drawn = run("draw", "a square", *models, "--temperature", 0.5, "--json", "--out", tmp_path / "drawings")
    files = [json.loads(line)["drawn"] for line in drawn.splitlines()]
    assert [Image.open(file).size for file in files] == [(64, 64)] * 4


def test_codes_of_middles_are_of_what_infilling_hides(tables: Path, tmp_path: Path) -> None:
    save_vqgan(Vqgan(TINY), coder := tmp_path / "coder")
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    wide = Image.open(tables / "3.png").resize((48, 24))
    wide.save(source / "wide.png")
    (stretched := wide.resize((16, 16), Image.Resampling.LANCZOS)).save(source / "stretched.png")
    contents = base64.b64encode((source / "stretched.png").read_bytes()).decode()
    (source / "train.tsv").write_text(f"image\nwide.png\nstretched.png\n{contents}\n")
    words = ["prepare", "picture-middles", str(out), "--from", str(source), "--coder", str(coder), "--size", "16"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    task = ImageInfilling(vocabulary(), 16, PictureForm(16))
    rows = [row for _, row in TaskRows(out / "train.tsv", ("image", "codes"), ("image",), tmp_path / "cache")]
    with torch.inference_mode():
        hidden = task.pictures(stretched)[None, :, 4:12, 4:12]
        expected = load_vqgan(coder).encode(hidden).flatten().tolist()
    assert [task.codes_of(row, "row") for row in rows] == [expected] * 3
    examples = [task.example(row, "row") for row in rows]
    assert all(torch.equal(one.target, examples[0].target) for one in examples)
    assert all(not one.pixels[:, 4:12, 4:12].any() for one in examples)
    assert torch.equal(examples[1].pixels, examples[2].pixels), "by path and by contents"


def test_tables_of_codes_that_cannot_be_made(tables: Path, tmp_path: Path) -> None:
    save_vqgan(Vqgan(TINY), coder := tmp_path / "coder")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.tsv").write_text("image\tcaption\nnone.png\ta\n")
    with pytest.raises(InputError, match=r"a\.tsv, row 1: column 'image'"):
        make_picture_codes(broken, coder, 16, tmp_path / "out")
    (broken / "a.tsv").write_text("image\ttext\nnone.png\ta\n")
    with pytest.raises(InputError, match="image and caption among its columns"):
        make_picture_codes(broken, coder, 16, tmp_path / "out")
    with pytest.raises(ValueError, match="size=15 is no multiple of 2"):
        make_picture_codes(tables, coder, 15, tmp_path / "out")
    with pytest.raises(ValueError, match="size=18 is no multiple of 4, twice the pixels"):
        make_picture_codes(tables, coder, 18, tmp_path / "out", middle=True)
    command = ["prepare", "picture-codes", str(tmp_path / "codes"), "--from", str(tables), "--coder", str(coder)]
    result = CliRunner().invoke(app, [*command, "--size", "16", "--device", "abacus"])
    assert result.exit_code == 1 and result.stderr.startswith("error: device 'abacus' cannot be used here: ")
    assert not (tmp_path / "codes").exists()
    result = CliRunner().invoke(app, ["prepare", "picture-codes", str(tmp_path), "--from", str(tables)])
    assert result.exit_code == 2 and "--coder" in result.output


def test_shipped_recipes_fit_each_other() -> None:
    coder = load_finetune_recipe("vqgan-nano", folder="pretrain")
    shape = presets.PRESETS[coder.model]
    drawer = nano(100)
    assert shape.codes == drawer.codes and coder.image_size == shape.patch * drawer.code_grid
    assert load_finetune_recipe("ofa-nano-drawings").kind == "drawing"
    assert dataclasses.asdict(coder)["coding"]["crop"] % shape.patch == 0
