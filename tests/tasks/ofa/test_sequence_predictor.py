"""Answers of sequence-to-sequence models that are no answers, and prompts that leave no room for one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from one_peace.cli.main import app
from one_peace.models.ofa.encoder import Encoded
from one_peace.tasks.ofa.kinds import SequenceSettings
from one_peace.tasks.ofa.predictor import SequencePredictor
from one_peace.tasks.task import BadRow
from tiny_ofa import tiny_ofa

IMAGE = Image.new("RGB", (64, 48), (200, 30, 30))
ROWS: dict[str, dict[str, Any]] = {
    "captioning": {"image": IMAGE, "caption": "a dog"},
    "referring": {"image": IMAGE, "text": "a dog", "region_coord": "1,2,30,40"},
    "picture-answering": {"image": IMAGE, "question": "is it red", "answer": "yes"},
    "sentences": {"sentence": "two dogs", "label": "1"},
    "text-infilling": {"text": "two dogs"},
}


def predictor(kind: str, prompt: str = "none", decoding: str = "beam") -> SequencePredictor:
    ofa = tiny_ofa()
    answers = ("yes", "no way") if kind == "picture-answering" else ()
    settings = SequenceSettings(kind, answers, prompt=prompt, decoding=decoding, references=True)  # type: ignore[arg-type]
    return SequencePredictor(ofa.model, ofa.processor.vocabulary, settings)


@pytest.mark.parametrize(
    ("kind", "decoding"), [*((kind, "beam") for kind in ROWS), ("picture-answering", "candidates")]
)
def test_scores_that_are_no_numbers_answer_nothing(kind: str, decoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = predictor(kind, decoding=decoding)
    rows = [(name, ROWS[kind]) for name in ("sound", "broken", "other")]
    before = asked.figures(rows).values
    encode = asked.model.encode

    def broken(*given: Any) -> Encoded:
        encoded = encode(*given)
        features = encoded.features.clone()
        features[1, 0] = math.nan
        return dataclasses.replace(encoded, features=features)

    monkeypatch.setattr(asked.model, "encode", broken)
    figures = asked.figures(rows, on_error="skip")
    assert len(figures.values) == len(figures.facts) == 2 and [str(v) for v in figures.values] == [
        str(before[0]),
        str(before[2]),
    ]
    assert [error.source for error in asked.skipped] == ["broken"] and "not finite" in str(asked.skipped[0])
    with pytest.raises(BadRow, match="broken: gets no answer"):
        asked.figures(rows)


def test_a_prompt_leaves_room_for_every_answer() -> None:
    asked = predictor("picture-answering", "source", "candidates")
    longest = asked.model.config.longest_text
    questions = ["q" * count for count in range(1, longest)]
    lengths = [len(asked.task.example({"image": IMAGE, "question": question}, "").prompt) for question in questions]
    rows = [
        (str(length), {"image": IMAGE, "question": question})
        for question, length in zip(questions, lengths, strict=True)
        if longest - 12 <= length <= longest
    ]
    answered = [key for key, _ in asked.predict(rows, on_error="skip")]
    assert answered and asked.skipped and int(answered[-1]) < int(asked.skipped[0].source)
    assert "its prompt before the answer has" in str(asked.skipped[0])


@pytest.mark.parametrize(
    ("learned", "kind", "given"),
    [("prev_output", "picture-answering", "open"), ("src", "sentences", "source"), ("src", "captioning", "none")],
)
def test_a_file_without_settings_is_given_the_prompt_that_it_learned(
    learned: str, kind: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_ofa(prompt=learned).save_pretrained(tmp_path / "model")
    asked: list[SequencePredictor] = []

    def predict(predictor: SequencePredictor, rows: Any, on_error: str) -> Iterator[Any]:
        asked.append(predictor)
        return iter(())

    monkeypatch.setattr(SequencePredictor, "predict", predict)
    said = CliRunner().invoke(app, ["predict", str(model), "question=red?", "--task", kind])
    assert said.exit_code == 0 and [one.settings.prompt for one in asked] == [given], said.output
