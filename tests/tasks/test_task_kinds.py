"""Every kind of task: rows in, scores through a model, loss, figures and predictions out; and rows that are refused."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from one_peace.errors import InputError
from one_peace.models.one_peace.config import HeadConfig
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.objectives.classification import classification_loss
from one_peace.tasks.audio_question_answering import AudioQuestionAnswering
from one_peace.tasks.classification import Classification
from one_peace.tasks.grounding import Grounding
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.reasoning import Reasoning
from one_peace.tasks.task import BadRow, Task, TaskBatch
from one_peace.tasks.visual_question_answering import VisualQuestionAnswering
from tiny_models import CONFIG, tiny_processors


def png(colour: str = "red", size: tuple[int, int] = (40, 20)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def wav(pitch: float = 300.0) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, 0.3 * np.sin(pitch * np.arange(20000) / 16000), 16000, format="WAV")
    return out.getvalue()


PROCESSORS = tiny_processors()
LABELS = LabelMap(["cat", "dog", "horse"])
ANSWERS = LabelMap(["yes", "no", "2"])

KINDS: dict[str, tuple[Callable[[], Task], list[dict[str, Any]]]] = {
    "image classification": (
        lambda: Classification(PROCESSORS, "image", LABELS),
        [{"image": png(), "label": "dog"}, {"image": png("blue"), "label": "2"}],
    ),
    "audio classification": (
        lambda: Classification(PROCESSORS, "audio", LABELS, multiple=True),
        [{"audio": wav(), "label": "dog,cat"}, {"audio": wav(900), "label": "horse"}],
    ),
    "text classification": (
        lambda: Classification(PROCESSORS, "text", LABELS, smoothing=0.1),
        [{"text": "a red apple", "label": "dog"}, {"text": "two boats", "label": "horse"}],
    ),
    "visual question answering": (
        lambda: VisualQuestionAnswering(PROCESSORS, ANSWERS),
        [
            {"image": png(), "question": "Is it red?", "refs": "yes|!+1.0&&no|!+0.3"},
            {"image": png("blue"), "question": "how many", "refs": "2|!+17|!+0.6&&many|!+3|!+1.0"},
        ],
    ),
    "audio question answering": (
        lambda: AudioQuestionAnswering(PROCESSORS),
        [
            {"audio": wav(), "text": "What is it?&&&a dog&&&a cat&&&rain&&&a horse&&&1"},
            {"audio": wav(900), "text": "Where?&&&here&&&there&&&in a long dark room&&&no&&&3"},
        ],
    ),
    "reasoning": (
        lambda: Reasoning(PROCESSORS),
        [
            {"text": "both are red", "image1": png(), "image2": png("blue"), "label": "False"},
            {"text": "one is blue", "image1": png(), "image2": png("blue"), "label": "True"},
        ],
    ),
    "grounding": (
        lambda: Grounding(PROCESSORS),
        [
            {"image": png(), "text": "the red one", "region_coord": "4,5,30,18"},
            {"image": png(size=(64, 64)), "text": "left", "region_coord": "0.0,0.0,64.5,32"},
        ],
    ),
}


def run(task: Task, rows: list[dict[str, Any]]) -> tuple[OnePeaceForPrediction, torch.Tensor, TaskBatch]:
    torch.manual_seed(0)
    config = CONFIG.with_modalities([m for m in CONFIG.modalities if m in task.modalities])
    model = OnePeaceForPrediction(dataclasses.replace(config, decoder=None, head=task.head(CONFIG.width)))
    batch = task.collate([task.example(row, f"row {k}") for k, row in enumerate(rows)])
    return model, model(batch.inputs), batch


@pytest.mark.parametrize("kind", KINDS)
def test_learns_its_rows(kind: str) -> None:
    """A few steps on two rows lower the loss and raise the figure to its best: targets and scores belong together."""
    make, rows = KINDS[kind]
    task = make()
    model, scores, batch = run(task, rows)
    first = task.loss(scores, batch)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (task.loss(model(batch.inputs), batch) / len(rows)).backward()
        optimizer.step()
    scores = model(batch.inputs).detach()
    assert task.loss(scores, batch) < first
    figures = task.figures()
    figures.add(scores, batch)
    best = next(iter(figures.result().values()))
    assert best == pytest.approx(0.8 if kind == "visual question answering" else 1.0)
    made = task.predictions(scores, batch)
    assert len(made) == len(rows)
    json.dumps(made)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("image classification", HeadConfig(3, "image", "attention", hidden=3072)),
        ("visual question answering", HeadConfig(3, "text", "attention", hidden=3072, pooler=True)),
        ("audio question answering", HeadConfig(1, "text", "attention", hidden=3072)),
        ("reasoning", HeadConfig(2, "text", "attention", hidden=3072, pictures=2)),
        ("grounding", HeadConfig(4, "image", "attention", hidden=3072)),
    ],
)
def test_heads_are_the_published_ones(kind: str, head: HeadConfig) -> None:
    assert KINDS[kind][0]().head(1536) == head


def test_the_linear_head_of_the_image_classifier() -> None:
    task = TaskSettings("classification", labels=LABELS.names, modality="image", pooling="mean", smoothing=0.1)
    built = task.build(PROCESSORS)
    assert built.head(1536) == HeadConfig(3, "image", "mean", hidden=None)
    rows = [{"image": png(), "label": "dog"}]
    scores, target = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([1])
    batch = built.collate([built.example(row, "row") for row in rows])
    expected = torch.nn.functional.cross_entropy(scores, target, label_smoothing=0.1)
    torch.testing.assert_close(built.loss(scores, batch), expected)


def test_truth_is_told_with_its_probability() -> None:
    make, rows = KINDS["reasoning"]
    task = make()
    _, _, batch = run(task, rows)
    sure, unsure = task.predictions(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), batch)
    assert (sure["true"], sure["probability"]) == (True, 0.9526)
    assert (unsure["true"], unsure["probability"]) == (False, 0.0474)


def test_predictions_say_what_was_asked() -> None:
    make, rows = KINDS["audio question answering"]
    task = make()
    _, _, batch = run(task, rows)
    scores = torch.tensor([0.0, 1.0, 5.0, 2.0, 9.0, 1.0, 1.0, 1.0])[:, None]
    first, second = task.predictions(scores, batch)
    assert (first["question"], first["answer"], second["answer"]) == ("What is it?", "rain", "here")
    figures = task.figures()
    figures.add(scores, batch)
    assert figures.result() == {"accuracy": 0.0}


def test_boxes_are_told_in_pixels_inside_the_picture() -> None:
    make, rows = KINDS["grounding"]
    task = make()
    _, _, batch = run(task, rows)
    assert torch.allclose(batch.target[0], torch.tensor([0.1, 0.25, 0.75, 0.9]))
    certain = torch.logit(torch.tensor([[0.1, 0.25, 0.75, 0.9], [0.5, 0.5, 0.25, 1.0]]))
    first, second = task.predictions(certain, batch)
    assert first["box"] == [4.0, 5.0, 30.0, 18.0]
    assert second["box"] == [16.0, 32.0, 32.0, 64.0]


def test_the_loss_of_a_batch_is_the_sum_of_its_rows() -> None:
    make, rows = KINDS["visual question answering"]
    task = make()
    _, scores, batch = run(task, rows)
    expected = classification_loss(scores, batch.target, multiple=True)
    assert torch.allclose(task.loss(scores, batch), expected)
    assert batch.target.tolist() == [[1.0, pytest.approx(0.3), 0.0], [0.0, 0.0, pytest.approx(0.6)]]


def test_answers_that_cannot_be_given_are_measured_as_wrong_and_not_learnt() -> None:
    make, rows = KINDS["visual question answering"]
    task = make()
    outside = [{"refs": "maybe|!+1.0"}, {"answer": "maybe"}, {"refs": "", "annotators": ["maybe", "perhaps"]}]
    for answers in outside:
        row = {"image": png(), "question": "Is it red?", **answers}
        assert not task.measured(row, "row 7").target.any()
        with pytest.raises(BadRow, match="row 7: none of its answers is in the set"):
            task.taught(row, "row 7")
    torch.testing.assert_close(
        task.measured(rows[0] | {"refs": ["no|!+0.3"]}, "").target, torch.tensor([0.0, 0.3, 0.0])
    )
    with pytest.raises(BadRow, match="has no target"):  # no column says what could be compared
        task.measured({"image": png(), "question": "Is it red?", "annotators": "yes&&no"}, "row 7")


@pytest.mark.parametrize("label", ["dog,cat", " dog ,, cat,", ["dog", "cat"]])
def test_several_labels(label: Any) -> None:
    task = KINDS["audio classification"][0]()
    assert task.example({"audio": wav(), "label": label}, "row 7").target.tolist() == [1.0, 1.0, 0.0]


def test_rows_without_targets_are_for_prediction() -> None:
    for kind, (make, rows) in KINDS.items():
        task = make()
        hidden = [{k: v for k, v in row.items() if k not in ("label", "refs", "region_coord")} for row in rows]
        if kind == "audio question answering":
            hidden = [row | {"text": row["text"].rpartition("&&&")[0]} for row in rows]
        _, scores, batch = run(task, hidden)
        assert batch.target is None and len(task.predictions(scores, batch)) == 2, kind


BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("image classification", {"label": "donkey"}, "row 7.*'label'.*'donkey' is not among the 3 labels"),
    ("image classification", {"label": "horses"}, "nearest is 'horse'"),
    ("image classification", {"label": " "}, "'label' is empty"),
    ("image classification", {"label": "3"}, "'3' is not among"),
    ("image classification", {"image": b"no picture"}, "row 7: column 'image'"),
    ("image classification", {"image": Path("/nowhere/cat.png")}, "does not exist"),
    ("audio classification", {"label": "dog,cow,cat"}, "'cow' is not among"),
    ("audio classification", {"label": " , "}, "'label' is empty"),
    ("audio classification", {"label": ["dog", None]}, "'label' holds None"),
    ("audio classification", {"audio": b""}, "'audio' is empty"),
    ("visual question answering", {"question": ""}, "'question' is empty"),
    ("visual question answering", {"refs": "yes|!+2.0"}, "confidence"),
    ("visual question answering", {"refs": "yes"}, "confidence"),
    ("visual question answering", {"refs": "yes|!+nan"}, "confidence"),
    ("visual question answering", {"refs": "|!+1.0"}, "is no answer"),
    (
        "visual question answering",
        {"refs": "", "answer": ["yes"]},
        r"row 7: column 'answer' holds \['yes'\], which is no",
    ),
    ("visual question answering", {"annotators": ["yes", None]}, "'annotators' holds None"),
    ("image classification", {"label": ["dog"]}, "'label' holds .*which is no text"),
    ("image classification", {"label": float("nan")}, "'label' holds nan"),
    ("reasoning", {"label": {"a": 1}}, "'label' holds"),
    ("visual question answering", {"question": "?!"}, "'question' is empty"),
    ("text classification", {"text": " "}, "'text' is empty"),
    ("reasoning", {"text": "..."}, "'text' is empty"),
    ("reasoning", {"image1": Path("/nowhere/left.png")}, "row 7: column 'image1': .*does not exist"),
    ("grounding", {"text": ""}, "'text' is empty"),
    ("grounding", {"region_coord": "-9,5,30,18"}, "row 7.*not inside the picture"),
    ("grounding", {"region_coord": "4,5,inf,18"}, "no area, or not a finite one"),
    ("grounding", {"region_coord": "4,5,4,18"}, "no area"),
    ("audio question answering", {"text": "What?"}, "no question&&&answer"),
    ("audio question answering", {"text": "What?&&&a&&&b&&&2"}, "no answer 2 among 2"),
    ("reasoning", {"label": "maybe"}, "neither True nor False"),
    ("reasoning", {"image2": b"\x89PNG"}, "column 'image2'"),
    ("grounding", {"region_coord": "4,5,30"}, "not x0,y0,x1,y1"),
    ("grounding", {"region_coord": "30,5,4,18"}, "no area"),
    ("grounding", {"region_coord": "4,5,30,180"}, "not inside the picture of 40 x 20"),
    ("grounding", {"region_coord": "nan,5,30,18"}, "no area"),
    ("grounding", {"text": "zq" * 900}, r"row 7: column 'text': has \d+ tokens, of which \d+ can be read"),
    ("audio question answering", {"text": f"What?&&&{'zq' * 900}&&&b&&&1"}, r"column 'text': has \d+ tokens"),
]


@pytest.mark.parametrize(
    ("kind", "change", "message"), BAD_ROWS, ids=[f"{k}-{list(c.values())[0]!r:.20}" for k, c, _ in BAD_ROWS]
)
def test_bad_rows_are_named(kind: str, change: dict[str, Any], message: str) -> None:
    make, rows = KINDS[kind]
    with pytest.raises(BadRow, match=message):
        make().example(rows[0] | change, "row 7")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(BadRow, match=r"no column 'image'; its columns are picture, label"):
        KINDS["image classification"][0]().example({"picture": png(), "label": "dog"}, "row 1")


def test_a_model_without_the_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="has no audio"):
        AudioQuestionAnswering({"text": PROCESSORS["text"]})


def test_unequal_numbers_of_answers_are_refused() -> None:
    task = KINDS["audio question answering"][0]()
    rows = [{"audio": wav(), "text": "a?&&&b&&&c&&&0"}, {"audio": wav(), "text": "a?&&&b&&&c&&&d&&&0"}]
    with pytest.raises(BadRow, match="row 1: has 3 candidate answers, where row 0 has 2.*micro_batch=1"):
        task.collate([task.example(row, f"row {k}") for k, row in enumerate(rows)])


def test_a_row_without_a_target_cannot_be_learned() -> None:
    for kind, hidden in (("visual question answering", "refs"), ("grounding", "region_coord"), ("reasoning", "label")):
        make, rows = KINDS[kind]
        row = {name: value for name, value in rows[0].items() if name != hidden}
        with pytest.raises(BadRow, match="row 7: has no target"):
            make().taught(row, "row 7")
        assert make().taught(rows[0], "row 7").target is not None


@pytest.mark.parametrize("content", ['["a", "b"]', '{"a": 0, "b": 1}', '{"0": ["a", "x"], "1": ["b"]}'])
def test_label_maps_are_read_in_their_usual_forms(content: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    assert LabelMap.read(path).names == ("a", "b")
    path.with_suffix(".txt").write_text("a\nb\n\n")
    assert LabelMap.read(path.with_suffix(".txt")).names == ("a", "b")


@pytest.mark.parametrize(
    "content",
    ['["a", "a"]', '{"a": 0, "b": 2}', "[", "[]", '{"x": "y"}', "3", "null", '"abc"', "[true]", '["a", null]'],
)
def test_bad_label_maps_are_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(InputError, match="labels.json"):
        LabelMap.read(path)


def test_figures_need_examples() -> None:
    for make, _ in KINDS.values():
        with pytest.raises(ValueError, match="no examples"):
            make().figures().result()
