"""A small OFA trained on data that installs by name: `python benchmarks/ofa.py`, each task beside guesses.

Makes the tables (`one-peace prepare ofa-nano`), pretrains, fine-tunes for each task, trains captions once more by their
CIDEr-D, and measures each model beside the one answer that serves best, other pictures' answers and, for captions, the
caption of the nearest training picture by an embedding model. A run that was interrupted goes on. Writes
results/ofa-DATE.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, machine

from one_peace.cache import cache_folder, table_cache
from one_peace.data.sample_tasks import make_sample_task
from one_peace.data.task_rows import TaskRows
from one_peace.models import from_pretrained
from one_peace.nn.allocator import keep_freed_memory
from one_peace.tasks.evaluation import run_evaluation
from one_peace.tasks.evaluation_recipe import load_evaluation
from one_peace.tasks.ofa.figures import CaptionFigures
from one_peace.tasks.task import media_columns
from one_peace.training.finetuning.recipe import load_finetune_recipe
from one_peace.training.finetuning.run import finetune

PRETRAINING = "ofa-nano"
CAPTIONS = {"seen": "seen_captions.tsv", "test": "test_captions.tsv"}
TASKS = {  # recipe -> what it starts from, and the tables that it is measured on
    "ofa-nano-captions": (PRETRAINING, CAPTIONS),
    "ofa-nano-captions-cider": ("ofa-nano-captions", CAPTIONS),
    "ofa-nano-boxes": (PRETRAINING, {"test": "test_boxes.tsv", "unseen": "unseen_boxes.tsv"}),
    "ofa-nano-questions": (PRETRAINING, {"test": "test_questions.tsv"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"some of {', '.join(TASKS)}; by default all")
    parser.add_argument("--part", type=float, default=1.0, help="share of the updates")
    parser.add_argument("--tables", type=Path, help="tables by `one-peace prepare`; made there where they are missing")
    parser.add_argument("--runs", type=Path, default=Path("runs/ofa"), help="run folders; an interrupted run continues")
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--encoder", default="one-peace-nano", help="the embedding model of the retrieval baseline")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := [name for name in options.tasks if name not in TASKS]:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(TASKS)}")
    keep_freed_memory()
    tables = options.tables or (options.library or cache_folder()) / "tasks" / PRETRAINING
    if not (tables / "captions.tsv").is_file():
        make_sample_task(PRETRAINING, tables, options.library, say=print)
    facts: dict[str, Any] = machine(torch.device(options.device)) | {"part": options.part, "tasks": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"ofa-{facts['date']}.json"
    train(PRETRAINING, None, tables, options, "pretrain")
    for name in options.tasks or TASKS:
        start, splits = TASKS[name]
        if start != PRETRAINING:
            train(start, TASKS[start][0], tables, options)
        train(name, start, tables, options)
        facts["tasks"][name] = measured(options.runs / name / "model", name, tables, splits, options.device)
        target.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    facts["nearest"] = nearest_captions(options.encoder, tables)
    print(f"caption of the nearest picture: {facts['nearest']}", flush=True)
    target.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"in {target}")


def train(name: str, start: str | None, tables: Path, options: argparse.Namespace, folder: str = "finetune") -> None:
    """A run of a shipped recipe, a part of its updates; nothing where it is done."""
    settings = [f"data={tables}"] + ([] if start is None else [f"checkpoint={options.runs / start / 'model'}"])
    steps = load_finetune_recipe(name, settings, folder).steps
    assert steps is not None
    recipe = load_finetune_recipe(name, [*settings, f"steps={max(1, round(options.part * steps))}"], folder)
    print(f"{name}: {recipe.steps} updates", flush=True)
    finetune(recipe, options.runs / name, options.device, lambda row: print(row, flush=True))


def measured(model: Path, name: str, tables: Path, splits: dict[str, str], device: str) -> list[dict[str, Any]]:
    """Figures of a model on some tables, each with its controls."""
    kind = load_finetune_recipe(name).task["kind"]
    recipe = {"captioning": "ofa-captions", "referring": "ofa-refcoco", "picture-answering": "ofa-vqa"}[kind]
    settings = [f"data={tables}", f"checkpoint={model}", f"tables.splits={json.dumps(splits)}", "published={}"]
    report = run_evaluation(load_evaluation(recipe, [*settings, "batch_size=32"]), device)
    print(report.as_table(), flush=True)
    return [dict(row) for row in report.to_dict()["rows"]]


def nearest_captions(encoder: str, tables: Path) -> dict[str, float]:
    """Figures of captions that are those of the most similar training pictures."""
    cache = table_cache()
    trained, tested = (
        [
            row
            for _, row in TaskRows(tables / name, ("image", "caption"), media_columns(), cache)
            if isinstance(row, dict)
        ]
        for name in ("captions.tsv", "test_captions.tsv")
    )
    model = from_pretrained(encoder)
    known, asked = (model.encode_image([row["image"] for row in rows]) for rows in (trained, tested))
    figures = CaptionFigures()
    for row, index in zip(tested, (asked @ known.t()).argmax(dim=1).tolist(), strict=True):
        figures.add(trained[index]["caption"], {"references": _references(row["caption"])})
    return figures.result()


def _references(caption: str) -> Sequence[str]:
    return caption.split("&&")


if __name__ == "__main__":
    main()
