"""Fine-tuning through the shared loop: learns, restarts, freezes, stops early, and says what is wrong with a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from fake_encoder import write_sound
from one_peace.cli.main import app
from one_peace.cli.predict import _folder
from one_peace.errors import CheckpointError, InputError
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.tasks.evaluation import run_evaluation
from one_peace.tasks.evaluation_recipe import load_evaluation
from one_peace.tasks.predictor import Predictor
from one_peace.training.finetuning import forward_pass
from one_peace.training.finetuning.examples import Examples, NoUsableRows
from one_peace.training.finetuning.recipe import FinetuneRecipe, load_finetune_recipe
from one_peace.training.finetuning.run import finetune, start_model
from run_folders import check_continues, untimed_log
from tiny_models import CONFIG, tiny_processors

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder, saved."""
    torch.manual_seed(0)
    encoder = OnePeaceEncoder(dataclasses.replace(CONFIG, decoder=None))
    return OnePeace(encoder, tiny_processors()).save_pretrained(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours, a few shades of each, as `path,label` tables."""
    folder = tmp_path_factory.mktemp("tables")
    for split, shades in (("train", range(6)), ("val", range(6, 8))):
        lines = ["path,label"]
        for name, colour in COLOURS.items():
            for shade in shades:
                file = f"{name}{shade}.png"
                Image.new("RGB", (64, 64), tuple(min(255, c + 6 * shade) for c in colour)).save(folder / file)
                lines.append(f"{file},{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def recipe(base: Path, folder: Path, **changes: Any) -> FinetuneRecipe:
    values: dict[str, Any] = {
        "task": {"kind": "classification"},
        "model": str(base),
        "tables": {"root": str(folder), "train": "train.csv", "validation": "val.csv", "columns": {"path": "image"}},
        "epochs": 10,
        "batch_size": 6,
        "optimizer": {"lr": 3e-3},
        "log_every": 5,
        "save_every": 1000,
    }
    return FinetuneRecipe.from_dict(values | changes)


def test_learns_and_predicts(base: Path, tables: Path, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    figures = finetune(recipe(base, tables), tmp_path, "cpu", said.append)
    counts = {name: said[0].pop(name) for name in ("trained", "parameters")}
    assert said[0] == {"start": str(base), "examples": 18, "updates": 30, "task": "classification"}
    assert counts["trained"] == counts["parameters"] > 0
    assert figures["accuracy"] == 1.0 and figures["examples"] == 6.0 and figures["best_by"] == "accuracy"
    predictor = Predictor.from_pretrained(tmp_path / "model")
    ((_, made),) = predictor.predict([("one", {"image": tables / "blue7.png"})])
    assert made["labels"][0][0] == "blue"
    assert predictor.model.config.per_layer_bias
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["tables"]["train"] == "train.csv"


def test_an_interrupted_run_continues_as_if_nothing_had_happened(base: Path, tables: Path, tmp_path: Path) -> None:
    chosen = recipe(base, tables, epochs=5, drop_path=0.2, micro_batch=3, save_every=6, log_every=1)
    check_continues(lambda out, report: finetune(chosen, out, "cpu", report), tmp_path, step=10)


def test_micro_batches_change_nothing(base: Path, tables: Path, tmp_path: Path) -> None:
    for name, micro in (("one", None), ("three", 2)):
        finetune(recipe(base, tables, epochs=2, micro_batch=micro), tmp_path / name, "cpu", lambda row: None)
    one, three = ([row["total"] for row in untimed_log(tmp_path / n) if "total" in row] for n in ("one", "three"))
    assert one == pytest.approx(three, rel=1e-4)


def test_a_frozen_encoder_stays_and_its_features_are_computed_once(
    base: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = FusionEncoder.forward

    def counted(self: FusionEncoder, sequences: Any) -> Any:
        calls.append(next(iter(sequences.values())).features.shape[0])
        return original(self, sequences)

    monkeypatch.setattr(FusionEncoder, "forward", counted)
    chosen = recipe(base, tables, freeze=True, epochs=20, evaluate_every=30, workers=2, optimizer={"lr": 1e-2})
    before, _ = start_model(chosen, chosen.settings(tmp_path))
    figures = finetune(chosen, tmp_path / "run", "cpu", lambda row: None)
    assert sum(calls) <= 2 * (18 + 6), "every picture once or, where a batch held a new one beside it, twice"
    after = Predictor.from_pretrained(tmp_path / "run/model").model
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) != name.startswith("head."), name
    assert figures["accuracy"] > 0.5
    monkeypatch.setattr(forward_pass, "CACHE_BYTES", 2048)  # of a few pictures
    calls.clear()
    again = finetune(chosen, tmp_path / "small", "cpu", lambda row: None)
    assert again == figures and sum(calls) > 2 * (18 + 6)


def test_the_best_model_has_the_weights_that_were_measured(base: Path, tables: Path, tmp_path: Path) -> None:
    chosen = recipe(base, tables, epochs=3, optimizer={"lr": 3e-3, "ema_decay": 0.999})
    recorded = finetune(chosen, tmp_path, "cpu", lambda row: None)["accuracy"]
    assert recorded < 0.8  # the average lags behind
    given = [f"data={tables / 'val.csv'}", f"checkpoint={tmp_path / 'model'}"]
    assert run_evaluation(load_evaluation("classification", given)).rows[0].value == recorded


def test_patience_ends_a_run_that_gets_no_better(base: Path, tables: Path, tmp_path: Path) -> None:
    chosen = recipe(base, tables, epochs=40, patience=2, optimizer={"lr": 0.0, "min_lr": 0.0})
    finetune(chosen, tmp_path, "cpu", lambda row: None)
    evaluated = [row["step"] for row in untimed_log(tmp_path) if "accuracy" in row]
    assert evaluated == [3, 6, 9]  # the first is the best, two more are no better
    finetune(chosen, tmp_path, "cpu", lambda row: None)
    assert [row["step"] for row in untimed_log(tmp_path) if "accuracy" in row] == evaluated


def test_a_folder_keeps_to_its_run(base: Path, tables: Path, tmp_path: Path) -> None:
    """Other labels with the weights of the old ones would be answered wrongly, wherever the labels come from."""
    finetune(recipe(base, tables, epochs=1), tmp_path, "cpu", lambda row: None)
    (tables / "other.csv").write_text((tables / "train.csv").read_text().replace(",red", ",purple"))
    given = {"root": str(tables), "train": "other.csv", "validation": "val.csv", "columns": {"path": "image"}}
    said = r"another recipe \(task.labels: .'blue', 'green', 'red'., now .*; tables.train: train.csv, now other"
    with pytest.raises(CheckpointError, match=said):
        finetune(recipe(base, tables, epochs=1, tables=given), tmp_path, "cpu", lambda row: None)
    finetune(recipe(base, tables, epochs=2), tmp_path, "cpu", lambda row: None)
    assert untimed_log(tmp_path)[-1]["step"] == 6


def test_bad_rows_are_left_out_and_named(base: Path, tables: Path, tmp_path: Path) -> None:
    lines = (tables / "train.csv").read_text().splitlines()
    (tables / "mixed.csv").write_text("\n".join([*lines, "missing.png,red", "red0.png,purple", "train.csv,red"]) + "\n")
    shown = (tables / "val.csv").read_text()
    (tables / "mixed_val.csv").write_text(f"{shown}gone.png,red\n")
    said: list[dict[str, Any]] = []
    given = {"root": str(tables), "train": "mixed.csv", "validation": "mixed_val.csv", "columns": {"path": "image"}}
    labels = {"kind": "classification", "labels": list(COLOURS)}
    finetune(recipe(base, tables, tables=given, task=labels, epochs=2), tmp_path, "cpu", said.append)
    warning, validation = [row["warning"] for row in said if "warning" in row]
    assert validation.startswith("1 rows of mixed_val.csv") and "row 7" in validation
    assert "gone.png does not exist" in validation
    assert warning.startswith("3 rows of") and "missing.png does not exist" in warning
    assert "'purple' is not among the 3 labels" in warning


def test_a_table_without_anything_usable_ends_with_one_message(base: Path, tables: Path, tmp_path: Path) -> None:
    (tables / "nothing.csv").write_text("path,label\nx.png,red\ny.png,blue\n")
    given = {"root": str(tables), "train": "nothing.csv", "columns": {"path": "image"}}
    with pytest.raises(
        NoUsableRows, match=r"nothing.csv: nothing usable after 2 attempts; the last one: .*png does not exist"
    ):
        finetune(recipe(base, tables, tables=given), tmp_path, "cpu", lambda row: None)
    said: list[dict[str, Any]] = []
    judged = recipe(base, tables, tables={**given, "train": "train.csv", "validation": "nothing.csv"})
    with pytest.raises(InputError, match=r"nothing.csv: has no usable row; the last one: .*png does not exist"):
        finetune(judged, tmp_path / "judged", "cpu", said.append)
    assert not said  # before anything is trained


def test_every_epoch_has_every_row_once(base: Path, tables: Path, tmp_path: Path) -> None:
    chosen = recipe(base, tables)
    _, processors = start_model(chosen, settings := chosen.settings(tmp_path))
    task = settings.build(processors)
    examples = Examples(chosen.tables.open("train.csv", task.columns, tmp_path), task, 7)
    epochs = [[e.key for update in range(3) for e in examples.batch(6, 3 * epoch + update)] for epoch in range(2)]
    assert len(set(epochs[0])) == 18 and set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]
    ahead = Examples(examples.rows, task, 7, workers=3)  # decoded by threads: the same, from any update on
    assert [e.key for update in (1, 2, 3, 1) for e in ahead.batch(6, update)] == [
        *epochs[0][6:],
        *epochs[1][:6],
        *epochs[0][6:12],
    ]
    halves = [e.key for rank in range(2) for e in examples.batch(6, 1, rank, 2)]
    assert halves == epochs[0][6:12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, not 0"),
        ({"epochs": "abc"}, "recipe: epochs is a number, not 'abc'"),
        ({"epochs": float("nan")}, "epochs is a number, not nan"),
        ({"epochs": float("inf")}, "epochs must be positive, not inf"),
        ({"steps": 2.5}, "steps is a whole number or null, not 2.5"),
        ({"steps": 0}, "steps is at least 1, not 0"),
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
        ({"log_every": 0}, "log_every is at least 1, not 0"),
        ({"save_every": 0}, "save_every is at least 1, not 0"),
        ({"patience": 0}, "patience is at least 1, not 0"),
        ({"evaluate_every": 0}, "evaluate_every is at least 1, not 0"),
        ({"warmup": 2}, r"warmup is in \[0, 1\), not 2"),
        ({"warmup": -1}, r"warmup is in \[0, 1\), not -1"),
        ({"drop_path": 1.0}, r"drop_path is in \[0, 1\), not 1"),
        ({"workers": 1.5}, "workers is a whole number, not 1.5"),
        ({"task": "classification"}, "recipe: task is a mapping of settings, not 'classification'"),
        ({"tables": {"train": "a.csv", "columns": 3}}, "tables: columns is a mapping, each value a text, not 3"),
        ({"tables": "a.csv"}, "tables is a mapping of settings, not 'a.csv'"),
        ({"lora": {"rank": "x"}}, "lora: rank is a whole number, not 'x'"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer: lr is a number, not nan"),
        ({"optimizer": {"lr": -1}}, "optimizer: lr is at least 0, not -1"),
        ({"optimizer": {"layer_decay": 0}}, r"layer_decay is in \(0, 1\], not 0"),
        ({"optimizer": [1]}, "optimizer is a mapping of settings"),
        *(
            (
                {"task": {"kind": kind}, "optimizer": {"layer_decay": 0.9}},
                f"layer_decay is for ONE-PEACE .* {kind} does",
            )
            for kind in ("captioning", "picture-coding")
        ),
        ({"micro_batch": 4}, "micro_batch=4 does not divide"),
        ({"workers": -1}, "workers is at least 0, not -1"),
        ({"seed": 2**64}, r"seed is in \[0, 281474976710656\), not 18446744073709551616"),
        ({"patience": 1, "tables": {"train": "train.csv"}}, "patience needs a tables.validation"),
        ({"tables": {"train": "a", "augmentation": "lots"}}, "tables.augmentation is one of none, blur, reasoning"),
        ({"freeze": True, "tables": {"train": "a", "augmentation": "blur"}}, "set tables.augmentation=none"),
        ({"taks": {}}, "unknown key 'taks'; the nearest is 'task'"),
        ({"optimizer": {"layer_deccay": 1}}, "'layer_deccay'; the nearest is 'layer_decay'"),
        ({"trackers": ["tensorbord"]}, "unknown 'tensorbord'"),
    ],
)
def test_wrong_recipes(base: Path, tables: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(base, tables, **changes)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"smoothing": 2}, r"task: smoothing is in \[0, 1\), not 2"),
        ({"smoothing": -1}, r"smoothing is in \[0, 1\), not -1"),
        ({"labels": [1, 2]}, r"task: labels is a list, each a text, not \[1, 2\]"),
        ({"labels": [True, False]}, "labels is a list, each a text"),
        ({"labels": 1.5}, "labels is a list, each a text, not 1.5"),
        ({"multiple": "maybe"}, "multiple is true or false, not 'maybe'"),
        ({"pooling": "most"}, "pooling is one of attention, cls, mean, not 'most'"),
        ({"first_number": "x", "labels": 3}, "first_number is a whole number, not 'x'"),
    ],
)
def test_wrong_tasks(base: Path, tables: Path, task: dict[str, Any], message: str, tmp_path: Path) -> None:
    chosen = recipe(base, tables, task={"kind": "classification", "labels": ["red"]} | task)
    with pytest.raises(ValueError, match=message):
        chosen.settings(tmp_path)


def test_missing_tables_labels_and_columns_are_named(base: Path, tables: Path, tmp_path: Path) -> None:
    cases = [
        ({"tables": {"root": str(tables), "train": "gone.csv"}}, "gone.csv: cannot be opened"),
        ({"tables": {"root": str(tables), "train": "train.csv"}}, "no column 'image'"),
        ({"task": {"kind": "classification", "labels": "gone.json"}}, "gone.json: is no label map"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            finetune(recipe(base, tables, **changes), tmp_path / "run", "cpu", lambda row: None)


@pytest.mark.parametrize(
    ("task", "lines", "labels"),
    [
        ({}, ['{"image": "0.png", "label": "cat"}', '{"image": "1.png", "label": 7}'], {"cat", "7"}),
        ({}, ['{"image": "0.png", "label": "cat"}', '{"image": "1.png"}', "[1]", "{"], {"cat"}),
        ({}, [f'{{"label": {value}}}' for value in ('"cat"', '""', "null", '["b"]', "{}", "NaN", '" "')], {"cat"}),
        ({"multiple": True}, ['{"label": "b,"}', '{"label": "a,, c"}', '{"label": ["d"]}'], set("abcd")),
        (
            {"kind": "visual-question-answering"},
            ['{"answer": "yes"}', '{"answer": ""}', '{"refs": "no|!+1"}'],
            {"yes", "no"},
        ),
    ],
)
def test_labels_are_those_that_occur(task: dict[str, Any], lines: list[str], labels: set[str], tmp_path: Path) -> None:
    """Rows that cannot be used are left out in training, and make no class before it."""
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    given = {"task": {"kind": "classification"} | task, "tables": {"root": str(tmp_path), "train": "t.jsonl"}}
    assert set(recipe(tmp_path, tmp_path, **given).settings(tmp_path).labels) == labels


def test_a_table_without_labels_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\n0.png,\n1.png\n")
    given = {"root": str(tmp_path), "train": "t.csv"}
    with pytest.raises(InputError, match="t.csv: has nothing to learn in label; .* row 2: has 1 columns, the header 2"):
        recipe(tmp_path, tmp_path, tables=given).settings(tmp_path)


@pytest.mark.parametrize(
    ("settings", "micro"),
    [
        ([], 8),
        (["batch_size=4"], 4),
        (["batch_size=12"], 6),
        (["batch_size=16"], 8),
        (["batch_size=16", "micro_batch=2"], 2),
    ],
)
def test_micro_batches_follow_the_batch(settings: list[str], micro: int) -> None:
    assert load_finetune_recipe("vqa", settings).micro_batch == micro


def test_a_table_alone_is_all_there_is(tmp_path: Path) -> None:
    (tmp_path / "vq.csv").write_text("image,question,answer\n0.png,is it red,yes\n0.png,how many,2\n")
    chosen = load_finetune_recipe("vqa", [f"data={tmp_path / 'vq.csv'}"])
    assert chosen.tables.train == "vq.csv" and chosen.tables.validation is None
    assert chosen.settings(tmp_path).labels == ("2", "yes")
    given = ["task.labels=[yes sir]", "tables.validation=val.csv"]
    chosen = load_finetune_recipe("vqa", [*given, f"data={tmp_path / 'vq.csv'}"])
    assert chosen.tables.validation == "val.csv" and chosen.settings(tmp_path).labels == ("yes sir",)


@pytest.mark.parametrize("name", ["2024", "runs #2", "a: b, c", "yes", "@home", "[x]", "Käse 🧀"])
def test_folders_tables_and_models_are_called_anything(name: str) -> None:
    """What YAML would take for a number, a list, a comment."""
    given = [f"data={name}/{name}.tsv", f"checkpoint={name}"]
    trained, measured = load_finetune_recipe("refcoco", given), load_evaluation("refcoco", given)
    assert (trained.tables.root, trained.tables.train, trained.model) == (name, f"{name}.tsv", name)
    assert (measured.data.root, measured.data.splits, measured.model) == (name, {name: f"{name}.tsv"}, name)
    assert load_finetune_recipe("refcoco", [f"data={name}"]).tables.root == name
    assert load_evaluation("refcoco", [f"data={name}"]).data.root == name


def test_the_command(base: Path, tables: Path, tmp_path: Path) -> None:
    arguments = ["finetune", "classification", f"data={tables}", f"checkpoint={base}", "tables.validation=val.csv"]
    result = CliRunner().invoke(app, [*arguments, "epochs=2", "batch_size=6", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"the best model is in {tmp_path / 'run/model'}" in result.stdout
    model = tmp_path / "run/model"
    predicted = CliRunner().invoke(app, ["predict", str(model), "--table", str(tables / "val.csv")])  # `path,label` too
    assert predicted.exit_code == 0, predicted.output
    assert len(predicted.stdout.splitlines()) == 6
    asked = ["evaluate", "classification", f"data={tables / 'val.csv'}", f"checkpoint={model}"]
    measured = CliRunner().invoke(app, asked)
    assert measured.exit_code == 0 and "| val | accuracy |" in measured.stdout, measured.output
    wrong = CliRunner().invoke(app, ["finetune", "clasification", f"data={tables}"])
    assert wrong.exit_code == 1 and "shipped:" in wrong.output and "classification" in wrong.output


def test_a_retrieval_model_knows_its_modality_and_columns(base: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_sound(tmp_path / f"{number}.wav", 200 * (number + 1))
    for name in ("path", "file"):
        lines = [f"{name},caption", *(f"{number}.wav,a tone {number}" for number in range(4))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    settings = [f"checkpoint={base}", "task.modality=audio", "steps=1", "batch_size=4"]
    by_path = load_finetune_recipe("retrieval", [f"data={tmp_path / 'path.csv'}", *settings])
    own = [f"data={tmp_path / 'file.csv'}", *settings, "tables.columns={file: audio}"]
    for name, chosen in (("path", by_path), ("file", load_finetune_recipe("retrieval", own))):
        assert chosen.tables.columns == {name: "audio"}
        finetune(chosen, tmp_path / name, "cpu", lambda row: None)
        asked = [f"data={tmp_path / f'{name}.csv'}", f"checkpoint={tmp_path / name / 'model'}"]
        report = run_evaluation(load_evaluation("retrieval", asked))
        assert {row.figure.partition("@")[0] for row in report.rows} == {"audio_to_text", "text_to_audio"}
    assert load_evaluation("retrieval", ["task.modality=audio"]).data.columns == {"path": "audio"}


@pytest.mark.parametrize(("reads", "ending"), [("image", ".png"), ("video", ".mp4"), ("depth", ".depth.npy")])
def test_a_folder_is_for_whatever_has_files(reads: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"a{ending}").touch()
    (tmp_path / "a.txt").touch()
    model: Any = SimpleNamespace(reads=reads)
    assert [row for _, row in _folder(tmp_path, model)] == [{reads: tmp_path / f"a{ending}"}]
    with pytest.raises(typer.BadParameter, match="files of one kind"):
        _folder(tmp_path, SimpleNamespace(reads="text"))  # type: ignore[arg-type]


PUBLISHED = {  # rate, global batch, epochs, layer decay, drop path
    "coco": (8e-5, 16, 15, 0.9, 0.5),
    "flickr30k": (7e-5, 16, 20, 0.9, 0.4),
    "audiocaps": (1.5e-4, 16, 10, 0.95, 0.9),
    "clotho": (1.5e-4, 16, 10, 0.95, 0.9),
    "audio-text": (1.5e-4, 16, 10, 0.95, 0.9),
    "vqa": (3e-4, 512, 10, 0.85, 0.5),
    "nlvr2": (1e-4, 128, 25, 0.9, 0.4),
    "refcoco": (1.5e-4, 256, 30, 0.9, 0.4),
    "refcoco+": (1.5e-4, 256, 30, 0.9, 0.4),
    "refcocog": (1.5e-4, 256, 30, 0.9, 0.4),
    "avqa": (7e-5, 128, 10, 0.9, 0.5),
    "vggsound": (8e-5, 512, 10, 0.95, 0.6),
    "fsd50k": (1e-4, 128, 10, 0.9, 0.5),
    "imagenet-21k": (1e-4, 3072, 40, 0.85, 0.4),
    "imagenet-384": (3e-5, 1024, 15, 0.9, 0.4),
    "imagenet-512": (5e-5, 1024, 15, 0.9, 0.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_published_numbers(name: str) -> None:
    made = load_finetune_recipe(name)
    optimizer = made.optimizer
    assert (optimizer.lr, made.batch_size, made.epochs, optimizer.layer_decay, made.drop_path) == PUBLISHED[name]
    assert optimizer.clip_norm == 0.0 and optimizer.weight_decay == 0.05 and made.seed == 3407
