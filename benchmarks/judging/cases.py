"""The tasks that a model is judged on, and the ways to learn them.

Rates were chosen by short trials on the validation part of training tables, never on a test table; updates so that all
tasks together take half an hour of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
RETRIEVAL = "retrieval"  # the kind of task
FINE_TUNED, SCRATCH, HEAD = "fine-tuned", "from scratch", "head alone"
ARMS = (FINE_TUNED, SCRATCH, HEAD)
RATES = {FINE_TUNED: 5e-4, SCRATCH: 5e-4, HEAD: 1e-3}  # learning rates
LONGER = {HEAD: 3}  # times the updates: its features are computed once and kept


def _own(row: Row) -> str:
    return str(row.get("uniq_id"))


def _picture(row: Row) -> str:
    return str(row["image"])


def _caption(row: Row) -> str:
    return str(row["caption"])


def _kit(row: Row) -> str:
    return str(row["uniq_id"]).partition("/")[0]


@dataclass(frozen=True)
class Case:
    """A table of `one-peace prepare` and how it is learned.

    `made_of` says what is real in it and what is not. `settings` go into the recipe.
    `together` names what must not be divided between training and validation: a kit, a picture. `tests` are the
    tables that a trained model is measured on; `baseline` one of `baselines.py`.
    """

    table: str
    kind: str
    made_of: str
    task: Mapping[str, Any]
    baseline: str
    updates: int = 90
    batch_size: int = 32
    settings: Mapping[str, Any] = field(default_factory=dict)
    together: Callable[[Row], str] = _own
    tests: tuple[str, ...] = ("test",)
    most_tested: int = 400


CASES: tuple[Case, ...] = (
    Case(
        "emoji-groups",
        "image classification, 8 classes",
        "real: pictures of the Noto emoji, groups of Unicode",
        {"kind": "classification", "labels": "labels.json"},
        "most frequent",
    ),
    Case(
        "stamp-categories",
        "image classification, 10 classes",
        "real: pictures and folders of the Tux Paint stamps",
        {"kind": "classification", "labels": "labels.json"},
        "most frequent",
        updates=45,
    ),
    Case(
        "emoji-keywords",
        "image classification, several labels each",
        "real: pictures of the Noto emoji, keywords of Unicode",
        {"kind": "classification", "labels": "labels.json", "multiple": True},
        "equal scores",
    ),
    Case(
        "drums",
        "audio classification, 8 drums",
        "real: recordings; labels by the names of the files; whole kits held out",
        {"kind": "classification", "modality": "audio", "labels": "labels.json"},
        "most frequent",
        updates=36,
        batch_size=8,
        settings={"seconds": 1.0},
        together=_kit,
    ),
    Case(
        "easy-vqa",
        "visual question answering",
        "drawn and asked by a program of others (easy-vqa)",
        {"kind": "visual-question-answering", "labels": "answers.json"},
        "most frequent",
        updates=120,
        together=_picture,
    ),
    Case(
        "scene-questions",
        "visual question answering",
        "real cut-outs and words; arrangement and questions synthetic",
        {"kind": "visual-question-answering", "labels": "answers.json"},
        "most frequent",
    ),
    Case(
        "drum-answers",
        "audio question answering, 4 choices",
        "real recordings, whole kits held out; the wrong choices are drawn",
        {"kind": "audio-question-answering"},
        "chance",
        updates=24,
        batch_size=4,
        settings={"seconds": 1.0},
        together=_kit,
    ),
    Case(
        "scene-pairs",
        "reasoning over two pictures",
        "real cut-outs and words; arrangement and statements synthetic",
        {"kind": "reasoning"},
        "most frequent",
        updates=60,
    ),
    Case(
        "scene-boxes",
        "grounding, overlap of half or more",
        "real cut-outs and words; arrangement and boxes synthetic; `unseen`: things never trained on",
        {"kind": "grounding"},
        "centre box",
        tests=("test", "unseen"),
    ),
    Case(
        "stamp-captions",
        "text to image retrieval, recall@10",
        "real: pictures of the Tux Paint stamps and their captions; head alone: nothing is trained, as shipped",
        {"kind": RETRIEVAL},
        "chance",
        updates=45,
        batch_size=64,
        together=_caption,
    ),
)
