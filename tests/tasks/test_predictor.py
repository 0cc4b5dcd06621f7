"""Fine-tuned models from their folders and from published files: predictions, figures, bad rows, the command."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from one_peace.cli.main import app
from one_peace.errors import CheckpointError, InputError
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.ofa.kinds import SequenceSettings
from one_peace.tasks.predictor import Predictor
from one_peace.tasks.retrieval_pairs import RetrievalSettings
from one_peace.tasks.task import BadRow, TaskBatch
from one_peace.training.saving import save_for_training
from tiny_models import CONFIG, tiny_processors

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
SETTINGS = TaskSettings("classification", labels=tuple(COLOURS))


def saved(folder: Path, settings: TaskSettings, steps: int = 0) -> Path:
    """A model folder; with `steps` the classifier has learned the colours."""
    torch.manual_seed(0)
    processors = tiny_processors()
    task = settings.build(processors)
    config = CONFIG.with_modalities([m for m in CONFIG.modalities if m in task.modalities])
    model = OnePeaceForPrediction(dataclasses.replace(config, decoder=None, head=task.head(config.width)))
    if steps:
        examples = [task.example({"image": Image.new("RGB", (64, 64), c), "label": n}, n) for n, c in COLOURS.items()]
        batch, optimizer = task.collate(examples), torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            task.loss(model(batch.inputs), batch).backward()
            optimizer.step()
    save_for_training(model, {m: processors[m] for m in task.modalities}, folder)
    settings.save(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "colours", SETTINGS, steps=60)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (90, 50), colour).save(folder / f"{name}.png")
    return folder


def test_a_folder_knows_its_task(classifier: Path, pictures: Path) -> None:
    predictor = Predictor.from_pretrained(classifier, batch_size=2)
    rows = [(name, {"image": pictures / f"{name}.png", "label": name}) for name in COLOURS]
    made = dict(predictor.predict(rows))
    assert {key: value["labels"][0][0] for key, value in made.items()} == {name: name for name in COLOURS}
    assert predictor.measure(rows) == {"accuracy": 1.0, "accuracy@5": 1.0, "examples": 3.0}
    assert predictor.measure([(k, row | {"label": "red"}) for k, row in rows])["accuracy"] == pytest.approx(1 / 3)
    assert dict(predictor.predict([(k, row | {"label": "mauve"}) for k, row in rows])) == made, "nothing is compared"


def test_a_folder_is_found_by_its_address(classifier: Path) -> None:
    assert Predictor.from_pretrained(classifier.as_uri()).task.modalities == ("image",)


def test_bad_rows_are_passed_over_and_kept(classifier: Path, pictures: Path) -> None:
    predictor = Predictor.from_pretrained(classifier, batch_size=2)
    bad = InputError("table, row 2", "has 2 columns")
    rows = [
        ("a", {"image": pictures / "red.png"}),
        ("b", bad),
        ("c", {"image": b"junk"}),
        ("d", {"image": pictures / "blue.png"}),
    ]
    assert [key for key, _ in predictor.predict(rows, on_error="skip")] == ["a", "d"]
    assert [str(error).partition(":")[0] for error in predictor.skipped] == ["table, row 2", "c"]
    with pytest.raises(InputError, match="row 2: has 2 columns"):
        list(predictor.predict(rows))
    with pytest.raises(BadRow, match="c: column 'image'"):
        list(predictor.predict([rows[0], rows[2]]))
    with pytest.raises(InputError, match="a: has no target"):
        predictor.measure(rows[:1])


def test_scores_that_are_no_numbers_are_neither_right_nor_wrong(classifier: Path) -> None:
    model = Predictor.from_pretrained(classifier)
    own = model.run

    def damaged(batch: TaskBatch) -> Tensor:
        scores = own(batch)
        scores[[key == "red" for key in batch.keys], 1] = math.nan
        return scores

    predictor = Predictor(model.model, model.task, run=damaged)
    rows = [(name, {"image": Image.new("RGB", (64, 64), colour), "label": name}) for name, colour in COLOURS.items()]
    for use in (predictor.measure, lambda some: list(predictor.predict(some))):
        with pytest.raises(BadRow, match="red: gets scores that are not finite numbers"):
            use(rows)
    assert predictor.measure(rows, on_error="skip") == {"accuracy": 1.0, "accuracy@5": 1.0, "examples": 2.0}
    assert [name for name, _ in predictor.predict(rows, on_error="skip")] == ["green", "blue"]
    with pytest.raises(BadRow, match="red: gets scores"):
        predictor.measure(rows[:1], on_error="skip")


def test_the_wrong_task_is_refused(classifier: Path) -> None:
    with pytest.raises(CheckpointError, match="gives 3 scores .* needs 2"):
        Predictor.from_pretrained(classifier, TaskSettings("classification", labels=("a", "b")))
    with pytest.raises(ValueError, match="this task reads audio; the model has no audio"):
        Predictor.from_pretrained(classifier, dataclasses.replace(SETTINGS, modality="audio"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"kind": "classification", "labels": ["a"], "smothing": 1}', "'smothing'; the nearest is 'smoothing'"),
        ('{"kind": ["classification"], "labels": ["a"]}', "kind is a text"),
        ('["classification"]', "is a mapping"),
    ],
)
def test_damaged_settings_are_named(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(InputError, match=rf"task.json: is damaged: .*{problem}"):
        TaskSettings.read(tmp_path)


def test_settings_of_another_kind_of_task_are_none(tmp_path: Path) -> None:
    """A model fine-tuned for one task is a model without settings for another, and not a damaged one."""
    RetrievalSettings("retrieval", "audio").save(tmp_path)
    assert TaskSettings.read(tmp_path) is None and SequenceSettings.read(tmp_path) is None
    assert RetrievalSettings.read(tmp_path) == RetrievalSettings("retrieval", "audio")
    TaskSettings("grounding").save(tmp_path)
    assert RetrievalSettings.read(tmp_path) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "segmentation"}, "known: classification"), ({"kind": "classification"}, "needs labels")],
)
def test_settings_that_cannot_be(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskSettings(**settings)


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_command_on_one_picture_a_folder_and_a_table(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    one = json.loads(run(classifier, f"image={pictures / 'green.png'}"))
    assert one["labels"][0][0] == "green"
    lines = [json.loads(line) for line in run(classifier, "--folder", pictures).splitlines()]
    assert {Path(line["input"]).stem: line["labels"][0][0] for line in lines} == {name: name for name in COLOURS}
    table = tmp_path / "table.csv"
    table.write_text("id,image\n1,pictures/red.png\n2,pictures/missing.png\n3,pictures/blue.png\n")
    said = run(classifier, "--table", table, "--out", tmp_path / "made" / "out.jsonl", "--skip")
    assert said.startswith("2 predictions in")
    made = [json.loads(line) for line in (tmp_path / "made" / "out.jsonl").read_text().splitlines()]
    assert [line["labels"][0][0] for line in made] == ["red", "blue"]
    failed = CliRunner().invoke(app, ["predict", str(classifier), "--table", str(table)])
    assert failed.exit_code == 1 and "row 2 (2): column 'image'" in failed.output and "does not exist" in failed.output


def test_what_was_written_is_replaced_at_the_end_and_not_before(
    classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.jsonl"
    rows = [{"image": str(pictures / f"{name}.png")} for name in ("red", "missing")]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = table.read_bytes()
    failed = CliRunner().invoke(app, ["predict", str(classifier), "--table", str(table), "--out", str(table)])
    assert failed.exit_code == 1 and table.read_bytes() == before
    run(classifier, "--table", table, "--out", table, "--skip")
    assert [json.loads(line)["labels"][0][0] for line in table.read_text().splitlines()] == ["red"]


def test_boxes_are_drawn(tmp_path: Path, pictures: Path) -> None:
    model = saved(tmp_path / "boxes", TaskSettings("grounding"))
    made = json.loads(run(model, f"image={pictures / 'red.png'}", "text=the red one", "--draw", tmp_path / "drawn"))
    x0, y0, x1, y1 = made["box"]
    assert 0 <= x0 <= x1 <= 90 and 0 <= y0 <= y1 <= 50
    drawn = Image.open(made["drawn"])
    assert drawn.size == (90, 50) and len(drawn.getcolors(5000)) > 1


def test_questions_need_their_columns(tmp_path: Path, pictures: Path) -> None:
    settings = TaskSettings("visual-question-answering", labels=("yes", "no"))
    model = saved(tmp_path / "answers", settings)
    made = json.loads(run(model, f"image={pictures / 'red.png'}", "question=Is it red?"))
    assert made["answer"] in ("yes", "no") and made["question"] == "is it red?"
    failed = CliRunner().invoke(app, ["predict", str(model), f"image={pictures / 'red.png'}"])
    assert failed.exit_code == 1 and "the example: has no column 'question'" in failed.output
    for wrong in ([], ["image"], ["--folder", str(pictures)]):
        assert CliRunner().invoke(app, ["predict", str(model), *wrong]).exit_code == 2


def test_a_published_file_is_told_its_task(tmp_path: Path) -> None:
    """The reference classifier of sounds, from its container: settings in, labels out."""
    import numpy as np
    from safetensors.torch import load_file

    source = Path(__file__).parents[1] / "golden/one_peace/fixture4_classify_audio_nopool"
    meta = json.loads(source.with_suffix(".json").read_text())["meta"]
    tensors = load_file(source.with_suffix(".safetensors"))
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    path = tmp_path / "sounds.pt"
    torch.save({"cfg": {"model": meta["cfg"]}, "model": weights}, path)
    with pytest.raises(CheckpointError, match="says of no task"):
        Predictor.from_pretrained(path)
    settings = TaskSettings("classification", modality="audio", labels=tuple("abcdef"))
    predictor = Predictor.from_pretrained(path, settings)
    waveform = (np.sin(np.arange(20000) / 9).astype(np.float32), 16000)
    ((_, made),) = predictor.predict([("clip", {"audio": waveform})])
    assert sum(value for _, value in made["labels"]) <= 1.0001 and len(made["labels"]) == 5
