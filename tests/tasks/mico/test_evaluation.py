"""MiCo on tables: rankings by matching, scenes by prompts, captions and answers; through `run_evaluation`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from one_peace.errors import CheckpointError, InputError
from one_peace.models.mico.interface import MiCo
from one_peace.tasks.evaluation import run_evaluation
from one_peace.tasks.evaluation_recipe import load_evaluation
from one_peace.tasks.evaluation_report import EvaluationReport
from one_peace.tasks.retrieval_evaluation import rerank_by_matching
from tiny_mico import CAPTIONS, tiny_mico, write_clips


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EvaluationReport]:
    """Measures a tiny model with settings of a recipe, on a table in the test's folder."""
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    # what takes a Java program seconds to start
    monkeypatch.setattr("one_peace.tasks.caption_metrics.figures.has_meteor", lambda: False)
    tiny_mico().save_pretrained(tmp_path / "model")
    write_clips(tmp_path, 6)

    def run(task: dict[str, Any], table: str = "clips.csv", on_error: str = "raise", **changes: Any) -> Any:
        values = {"task": task, "model": str(tmp_path / "model"), **changes}
        values["tables"] = {"splits": {"test": table}, "root": str(tmp_path), **changes.get("tables", {})}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        return run_evaluation(load_evaluation(str(tmp_path / "recipe.yaml")), on_error=on_error)  # type: ignore[arg-type]

    return run


def test_rankings_by_matching_keep_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.3, 0.4, 0.7], [0.2, 0.6, 0.9, 0.1]])

    def match(texts: list[str], image: list[str]) -> torch.Tensor:
        return scores["abc".index(image[0])][[int(text[1]) for text in texts]][:, None]

    model = tiny_mico()
    monkeypatch.setattr(model, "match", match)
    by_media = torch.tensor([[0, 1, 2, 3], [2, 1, 0, 3], [3, 0, 1, 2]])
    by_texts = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0]])
    inputs = [{"image": name} for name in "abc"]
    media, texts = rerank_by_matching(model, ["t0", "t1", "t2", "t3"], inputs, (by_media, by_texts), 2)
    assert media.tolist() == [[1, 0, 2, 3], [2, 1, 0, 3], [0, 3, 1, 2]]
    assert texts.tolist() == [[1, 0, 2], [2, 1, 0], [2, 0, 1], [1, 2, 0]]


def test_retrieval_and_scenes(evaluate: Callable[..., EvaluationReport], tmp_path: Path) -> None:
    plain = evaluate({"kind": "retrieval", "modality": "audio"})
    ranked = evaluate({"kind": "retrieval", "modality": "audio", "rerank": 3})
    names = [row.figure for row in plain.rows]
    assert names == [f"{way}@{k}" for way in ("audio_to_text", "text_to_audio") for k in (1, 5, 10)]
    assert [row.candidates for row in plain.rows] == [6] * 6 and plain.rows[2].value == 1.0
    # the first three may change places, so what is found among the first five does not change
    assert [row.value for row in plain.rows if row.figure.endswith("@5")] == [
        row.value for row in ranked.rows if row.figure.endswith("@5")
    ]
    lines = []
    for number, label in enumerate(["kitchen", "office", "kitchen"]):
        depth = np.full((20, 30), 500 + 700 * number, np.uint16)
        Image.fromarray(depth).save(tmp_path / f"{number}.depth.png")
        lines.append(json.dumps({"depth": f"{number}.depth.png", "label": label}))
    (tmp_path / "scenes.jsonl").write_text("\n".join(lines) + "\n")
    task = {"kind": "zero-shot", "modality": "depth", "labels": ["kitchen", "office"], "prompts": ["a {}", "{}"]}
    found = evaluate(task, "scenes.jsonl")
    assert found.rows[0].figure == "accuracy" and found.rows[0].constant == pytest.approx(2 / 3)


def test_retrieval_by_tuples(evaluate: Callable[..., EvaluationReport], tmp_path: Path) -> None:
    alone = evaluate({"kind": "retrieval", "modality": "audio", "rerank": 2}).rows
    task = {"kind": "omni-retrieval", "modalities": ["image", "audio"], "tuples": "tv%ta%tva", "rerank": 2}
    found = evaluate(task).rows
    names = [
        f"{way}@{k}"
        for m in ("image", "audio", "image+audio")
        for way in (f"{m}_to_text", f"text_to_{m}")
        for k in (1, 5, 10)
    ]
    assert [row.figure for row in found] == names
    assert found[6:12] == alone  # a tuple of one is what `retrieval` measures
    lists = {
        **task,
        "modalities": {"image": "image", "audio": "audio"},
        "tuples": [["vision"], "audio", ["audio", "vision"]],
    }
    assert evaluate(lists).rows == found
    # a sound that cannot be read takes its clip out of what is measured of pictures too
    (tmp_path / "3.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"row 4 \(3\): column 'audio'"):
        evaluate(task)
    skipped = evaluate(task, on_error="skip")
    assert {row.examples for row in skipped.rows} == {5} and len(skipped.left_out) == 1
    with (tmp_path / "clips.csv").open("a") as file:
        file.write("9,1.png,1.wav,\n")
    for asked in (task, {"kind": "writing", "modality": "audio"}):
        skipped = evaluate(asked, on_error="skip")
        assert {row.examples for row in skipped.rows} == {5}
        assert [problem.partition(": ")[2][:16] for problem in skipped.left_out] == [
            "column 'caption'",
            "column 'audio': ",
        ]


def test_joint_embeddings_have_a_head_of_their_own(tmp_path: Path) -> None:
    write_clips(tmp_path, 2)
    model = tiny_mico()
    pictures, sounds = ([str(tmp_path / f"{n}.{ending}") for n in range(2)] for ending in ("png", "wav"))
    joint = model.encode_joint(audio=sounds, image=pictures)
    assert torch.equal(joint, model.encode_joint(image=pictures, audio=sounds)) and joint.shape == (2, 8)
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.encode_joint(image=pictures), model.encode_image(pictures))
    model.encoder.contrast["vision_audio"].weight[:, :16] = 0  # what is left of it is the sound's part
    assert torch.equal(
        model.encode_joint(image=pictures, audio=sounds), model.encode_joint(image=pictures[::-1], audio=sounds)
    )
    with pytest.raises(ValueError, match="no head for audio . depth"):
        model.encode_joint(audio=sounds, depth=[np.ones((4, 4), np.float32)] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuples": "tv_cap%tv"}, "several objectives"),
        ({"tuples": "tvs"}, "subtitles"),
        ({"tuples": "tvd"}, "the tasks need depth"),
        ({"tuples": "va"}, "t followed by"),
        ({"modalities": ["image", "video"]}, "same branch"),
        ({"modalities": ["image", "smell"]}, "'smell'"),
        ({"rerank": 1}, "rerank"),
    ],
)
def test_tuples_that_are_wrong(
    changes: dict[str, Any], message: str, evaluate: Callable[..., EvaluationReport]
) -> None:
    task = {"kind": "omni-retrieval", "modalities": ["image", "audio"], "tuples": "tva", **changes}
    with pytest.raises(ValueError, match=message):
        evaluate(task)


def test_captions_and_answers(
    evaluate: Callable[..., EvaluationReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {}

    def caption(self: MiCo, *, image: list[Path], **given: Any) -> list[str]:
        options.update(given)
        return [CAPTIONS[int(path.stem)] for path in image]

    said = evaluate({"kind": "writing", "modality": "image", "max_tokens": 4, "beams": 2})
    assert 0 <= next(row.value for row in said.rows if row.figure == "CIDEr") <= 10
    monkeypatch.setattr(MiCo, "caption", caption)
    settings = {"kind": "writing", "modality": "image", "max_tokens": 4, "beams": 2}
    perfect = {row.figure: row for row in evaluate(settings).rows}
    assert options == {"max_tokens": 4, "beams": 2}
    assert perfect["ROUGE_L"].value == pytest.approx(1.0) and perfect["ROUGE_L"].examples == 6
    shuffled = perfect["ROUGE_L"].shuffled
    assert shuffled is not None and shuffled < 0.7
    answers = enumerate(["cow", ["A cow!"], "dog"])
    rows = [{"image": f"{n}.png", "question": "a dog", "answer": answer} for n, answer in answers]
    rows.append({**rows[0], "image": "9.png"})
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(InputError, match="row 4"):
        evaluate({"kind": "answering"}, "asked.jsonl")
    monkeypatch.setattr(MiCo, "answer", lambda self, questions, **options: ["a cow"] * len(questions))
    answered = evaluate({"kind": "answering"}, "asked.jsonl", "skip")
    assert answered.rows[0].examples == 3 and len(answered.left_out) == 1
    (tmp_path / "asked.jsonl").write_text(json.dumps(rows[0]) + "\n")
    alone = evaluate({"kind": "answering"}, "asked.jsonl").rows[0]
    assert alone.value == 1.0 and alone.shuffled is None, "there is no other question"


def test_what_other_models_cannot_do(evaluate: Callable[..., EvaluationReport], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="MiCo"):
        evaluate({"kind": "writing"}, model="one-peace-nano")
    with pytest.raises(ValueError, match="matching"):
        evaluate({"kind": "retrieval", "modality": "audio", "rerank": 5}, model="one-peace-nano")
    with pytest.raises(ValueError, match="modality"):
        evaluate({"kind": "writing", "modality": "smell"})
    with pytest.raises(CheckpointError, match="omni-retrieval is for MiCo"):
        evaluate({"kind": "omni-retrieval", "modalities": ["audio"], "tuples": "ta"}, model="one-peace-nano")
