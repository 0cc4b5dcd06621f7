"""One case: trains every arm with the project's own loop, picks by validation, measures once on the test tables."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from judging.baselines import BASELINES, CHANCE
from judging.cases import ARMS, FINE_TUNED, HEAD, LONGER, RATES, RETRIEVAL, SCRATCH, Case
from judging.figures import Estimate, Hits, Measured, Scored, difference, estimate, split_batch
from one_peace.data.task_rows import TaskRows
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.tasks.predictor import Predictor
from one_peace.tasks.retrieval import recall_at
from one_peace.tasks.task import Task, TaskBatch, media_columns
from one_peace.training.best import BEST
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.finetuning.run import finetune

VALIDATION = 8  # one group of the training table in so many
MOST_VALIDATION = 200  # rows
EVALUATIONS = 4  # on the validation rows, during a run
GUESSED_FROM = 500  # training rows that a baseline looks at
RANK = 10  # of retrieval: whether a right picture is among so many


@dataclass(frozen=True)
class Setting:
    """Where and how much: folders of tables and of runs, the model in question, the share of all updates."""

    tables: Path
    work: Path
    model: str = "one-peace-nano"
    share: float = 1.0
    seed: int = 1


def run_case(
    case: Case, setting: Setting, arms: tuple[str, ...] = ARMS, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """The record of a case: for every test table the baseline and all arms, and what training took."""
    fit, validation = divide(case, setting)
    found: dict[str, dict[str, Measured]] = {}
    record: dict[str, Any] = {
        "table": case.table,
        "kind": case.kind,
        "made_of": case.made_of,
        "baseline": case.baseline,
        "rows": {"fit": fit, "validation": validation},
        "arms": {},
        "tests": {},
    }
    for arm in arms:
        cpu = time.process_time()
        model, record["arms"][arm] = _learn(case, arm, setting)
        found[arm] = {test: _measure(case, model, setting, test) for test in case.tests}
        record["arms"][arm]["cpu_seconds"] = round(time.process_time() - cpu, 1)
        shown = ", ".join(f"{test} {one.value():.3f}" for test, one in found[arm].items())
        say(f"{case.table}, {arm}: {shown} ({record['arms'][arm]['cpu_seconds']} CPU s)")
        shutil.rmtree(_folder(case, arm, setting), ignore_errors=True)
    for test in case.tests:
        one = found[arms[0]][test]
        entry: dict[str, Any] = {"rows": len(one.keys)}
        entry["baseline"] = dataclasses.asdict(_baseline(case, setting, one, test))
        entry["arms"] = {arm: dataclasses.asdict(estimate(found[arm][test])) for arm in arms}
        if {FINE_TUNED, SCRATCH} <= set(arms):
            entry["gain"] = dataclasses.asdict(difference(found[FINE_TUNED][test], found[SCRATCH][test]))
        record["tests"][test] = entry
    return record


def _learn(case: Case, arm: str, setting: Setting) -> tuple[str, dict[str, Any]]:
    """Trains one arm -> the model that validation chose, and what training says of itself."""
    if arm == HEAD and case.task["kind"] == RETRIEVAL:  # there is no head, so nothing to train
        return setting.model, {"updates": 0}
    out = _folder(case, arm, setting)
    chosen = finetune(recipe(case, arm, setting), out, "cpu", lambda row: None)
    told = {"lr": RATES[arm], "updates": _updates(case, arm, setting), "best_step": int(chosen["step"])}
    return str(out / BEST), told | {"validation": chosen[str(chosen["best_by"])]}


def recipe(case: Case, arm: str, setting: Setting) -> FinetuneRecipe:
    """The run of one arm on the fitted part of the training table."""
    updates = _updates(case, arm, setting)
    folder = setting.work / case.table
    rows = sum(1 for _ in (folder / "fit.tsv").open(encoding="utf-8")) - 1
    values: dict[str, Any] = {
        "task": dict(case.task),
        "model": str(_untrained(setting)) if arm == SCRATCH else setting.model,
        "tables": {"root": str(folder), "train": "fit.tsv", "validation": "validation.tsv"},
        "epochs": updates / math.ceil(rows / case.batch_size),
        "batch_size": case.batch_size,
        "optimizer": {"lr": RATES[arm], "clip_norm": 3.0},
        "freeze": arm == HEAD,
        "evaluate_every": math.ceil(updates / EVALUATIONS),
        "log_every": updates,
        "save_every": updates,
        "seed": setting.seed,
    }
    return FinetuneRecipe.from_dict(values | dict(case.settings))


def divide(case: Case, setting: Setting) -> tuple[int, int]:
    """Divides the training table into one to fit and one to choose by, groups kept whole -> their rows.

    The label map and the test tables are put beside them.
    """
    source, folder = setting.tables / case.table, setting.work / case.table
    folder.mkdir(parents=True, exist_ok=True)
    with (source / "train.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    parts: dict[str, list[Mapping[str, str]]] = {"fit": [], "validation": []}
    for row in rows:
        draw = int.from_bytes(hashlib.sha256(case.together(row).encode()).digest()[:4], "big")
        parts["fit" if draw % VALIDATION else "validation"].append(row)
    parts["validation"] = parts["validation"][:MOST_VALIDATION]
    for name in case.tests:
        with (source / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
            tested: list[Mapping[str, str]] = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        parts[name] = tested[: case.most_tested]
    for name, chosen in parts.items():
        lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in chosen)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for labels in source.glob("*.json"):
        shutil.copy(labels, folder)
    return len(parts["fit"]), len(parts["validation"])


def _updates(case: Case, arm: str, setting: Setting) -> int:
    return max(2, round(setting.share * case.updates * LONGER.get(arm, 1)))


def _untrained(setting: Setting) -> Path:
    """The same shape and tokenizer with fresh weights."""
    folder = setting.work / f"untrained-{setting.seed}"
    if not folder.exists():
        model = from_pretrained(setting.model)
        torch.manual_seed(setting.seed)
        OnePeace(OnePeaceEncoder(model.config), dict(model.processors)).save_pretrained(folder)
    return folder


def _rows(case: Case, setting: Setting, name: str, task: Task) -> TaskRows:
    folder = setting.work / case.table
    return TaskRows(folder / f"{name}.tsv", task.columns, media_columns(), setting.work / "indexes")


def _folder(case: Case, arm: str, setting: Setting) -> Path:
    return setting.work / case.table / arm.replace(" ", "-")


def _measure(case: Case, model: str, setting: Setting, test: str) -> Measured:
    """Every example of a test table through a model."""
    if case.task["kind"] == RETRIEVAL:
        return _look_up(case, model, setting, test)
    found: list[tuple[Tensor, TaskBatch]] = []

    def run(batch: TaskBatch) -> Tensor:
        scores: Tensor = predictor.model(batch.inputs)
        found.extend(split_batch(scores, batch))
        return scores

    predictor = Predictor.from_pretrained(model)
    predictor.run = run
    rows = _rows(case, setting, test, predictor.task)
    rows.check_ids()
    predictor.measure(rows)
    return Scored(predictor.task, found)


def _look_up(case: Case, model: str, setting: Setting, test: str) -> Hits:
    """Every caption as a query for the pictures that have it."""
    pictures, captions = _pictures(case, setting, test)
    queries = sorted(set(captions))
    loaded = from_pretrained(model)
    scores = loaded.encode_text(queries) @ loaded.encode_image(pictures).t()
    right = torch.tensor([[caption == query for caption in captions] for query in queries])
    return Hits(queries, recall_at(scores, right, RANK))


def _pictures(case: Case, setting: Setting, test: str) -> tuple[list[Path], list[str]]:
    """Pictures of a table of captions, and the caption of each."""
    rows = TaskRows(
        setting.work / case.table / f"{test}.tsv", ("image", "caption"), media_columns(), setting.work / "indexes"
    )
    read = [rows.row(place)[1] for place in range(len(rows))]
    return [row["image"] for row in read], [str(row["caption"]).strip().lower() for row in read]


def _baseline(case: Case, setting: Setting, like: Measured, test: str) -> Estimate:
    """The guess on the same examples; chance by arithmetic."""
    if isinstance(like, Hits):
        _, captions = _pictures(case, setting, test)
        missed = [
            math.comb(len(captions) - captions.count(query), RANK) / math.comb(len(captions), RANK)
            for query in like.keys
        ]
        value = 1 - sum(missed) / len(missed)
        return Estimate(value, value, value)
    assert isinstance(like, Scored)
    if case.baseline == CHANCE:
        value = sum(1 / len(scores) for scores, _ in like.examples) / len(like.examples)
        return Estimate(value, value, value)
    rows = _rows(case, setting, "fit", like.task)
    taken = range(0, len(rows), max(1, len(rows) // GUESSED_FROM))
    examples = [like.task.example(row, key) for key, row in (rows.row(place) for place in taken)]
    targets = torch.stack([example.target for example in examples if example.target is not None])
    scores = BASELINES[case.baseline](targets, like.examples[0][0].shape[1])
    return estimate(Scored(like.task, [(scores, batch) for _, batch in like.examples]))
