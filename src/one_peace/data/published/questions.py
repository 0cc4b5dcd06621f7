"""Questions with answers: VQAv2 about pictures, AVQA about sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from one_peace.data.published.answers import normalise_answer
from one_peace.data.published.conversion import Converted, SplitRow, find_any, need, one_line, read_json
from one_peace.data.published.durations import seconds
from one_peace.errors import InputError

ANSWERS = 3129  # of the published set
RARE = 9  # answers given less often make no class
CONFIDENCE = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}  # of an answer that so many annotators gave; 1 from four on


def vqa(source: Path) -> Converted:
    """The question and annotation files of VQAv2 and the COCO folders `train2014`, `val2014`, `test2015`.

    The set of answers is `ans2label.json` or `trainval_ans2label.json` where one of them is there (the published
    model's), otherwise the answers of at least 9 training questions.
    """
    annotations = {
        split: {
            need(a, "question_id", split): a
            for a in need(read_json(source, f"v2_mscoco_{split}2014_annotations.json"), "annotations", split)
        }
        for split in ("train", "val")
    }
    published = find_any(source, "trainval_ans2label.json", "ans2label.json")
    if published is None:
        answers = _frequent(annotations["train"].values())
    else:
        answers = _ordered(read_json(published.parent, published.name))
    if not answers:
        raise InputError(
            str(source),
            f"no answer is that of {RARE} training questions or more, so there is none to learn; with few questions "
            "put the answers there yourself, {answer: number} in ans2label.json",
        )
    known, passed_over = set(answers), Counter[str]()

    def rows() -> Iterator[SplitRow]:
        files = {"train": "train2014", "val": "val2014", "test": "test2015", "test-dev": "test-dev2015"}
        for split, name in files.items():
            file = f"v2_OpenEnded_mscoco_{name}_questions.json"
            if split not in annotations and find_any(source, file) is None:
                continue  # the test questions are optional
            folder = "test2015" if split.startswith("test") else name
            for question in need(read_json(source, file), "questions", name):
                picture = f"{folder}/COCO_{folder}_{int(need(question, 'image_id', name)):012d}.jpg"
                number = need(question, "question_id", name)
                values = {
                    "uniq_id": str(number),
                    "image": picture,
                    "question": one_line(need(question, "question", name)),
                }
                if split in annotations:
                    if number not in annotations[split]:
                        raise InputError(name, f"the question {number} has no annotation")
                    answered = need(annotations[split][number], "answers", name)
                    given = [one_line(need(a, "answer", name)) for a in answered]
                    refs = _references(given, known)
                    if not refs and split == "train":
                        passed_over["none of their answers is one to be learnt"] += 1
                        continue
                    values |= {"refs": refs, "annotators": "&&".join(given)}
                yield SplitRow(split, values, ("image",))

    return Converted(rows(), {"answers.json": answers}, passed_over=passed_over)


def _ordered(labels: dict[str, int]) -> list[str]:
    return sorted(labels, key=labels.__getitem__)


def _frequent(annotations: Any) -> list[str]:
    counts = Counter(normalise_answer(need(a, "multiple_choice_answer", "train")) for a in annotations)
    return sorted(answer for answer, count in counts.items() if count >= RARE and answer)


def _references(given: list[str], known: set[str]) -> str:
    """`answer|!+confidence` of the answers that are classes, joined by `&&`."""
    counts = Counter(normalise_answer(answer) for answer in given)
    return "&&".join(f"{a}|!+{CONFIDENCE.get(count, 1.0)}" for a, count in counts.items() if a in known)


def avqa(source: Path) -> Converted:
    """`train_qa.json`, `val_qa.json` and the sound tracks `audio/VIDEO.wav` of the videos."""

    def rows() -> Iterator[SplitRow]:
        for split in ("train", "val"):
            for record in read_json(source, f"{split}_qa.json"):
                name = f"{split}_qa.json"
                sound = f"audio/{need(record, 'video_name', name)}.wav"
                parts = [
                    need(record, "question_text", name),
                    *need(record, "multi_choice", name),
                    str(need(record, "answer", name)),
                ]
                values = {
                    "uniq_id": str(need(record, "id", name)),
                    "audio": sound,
                    "text": "&&&".join(one_line(part) for part in parts),
                    "duration": seconds(source / sound),
                }
                yield SplitRow(split, values, ("audio",))

    return Converted(rows())
