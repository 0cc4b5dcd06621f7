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
from one_peace.tasks.evaluation import EvaluationReport, load_evaluation, run_evaluation
from one_peace.tasks.retrieval_evaluation import rerank_by_matching
from one_peace.tasks.retrieval_pairs import RetrievalSet
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
    asked = RetrievalSet(["a", "b", "c"], ["1", "2", "3"], ["t0", "t1", "t2", "t3"], torch.eye(3, 4, dtype=torch.bool))
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.3, 0.4, 0.7], [0.2, 0.6, 0.9, 0.1]])

    def match(texts: list[str], image: list[str]) -> torch.Tensor:
        return scores["abc".index(image[0])][[int(text[1]) for text in texts]][:, None]

    model = tiny_mico()
    monkeypatch.setattr(model, "match", match)
    by_media = torch.tensor([[0, 1, 2, 3], [2, 1, 0, 3], [3, 0, 1, 2]])
    by_texts = torch.tensor([[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0]])
    media, texts = rerank_by_matching(model, asked, "image", (by_media, by_texts), 2)
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


def test_captions_and_answers(
    evaluate: Callable[..., EvaluationReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def caption(self: MiCo, *, image: list[Path], **options: Any) -> list[str]:
        return [CAPTIONS[int(path.stem)] for path in image]

    said = evaluate({"kind": "writing", "modality": "image", "max_tokens": 4, "beams": 2})
    assert 0 <= next(row.value for row in said.rows if row.figure == "CIDEr") <= 10
    monkeypatch.setattr(MiCo, "caption", caption)
    perfect = {row.figure: row for row in evaluate({"kind": "writing", "modality": "image"}).rows}
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


def test_what_other_models_cannot_do(evaluate: Callable[..., EvaluationReport], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="MiCo"):
        evaluate({"kind": "writing"}, model="one-peace-nano")
    with pytest.raises(ValueError, match="matching"):
        evaluate({"kind": "retrieval", "modality": "audio", "rerank": 5}, model="one-peace-nano")
    with pytest.raises(ValueError, match="modality"):
        evaluate({"kind": "writing", "modality": "smell"})
