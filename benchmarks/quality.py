"""What pretraining is worth on tasks: `python benchmarks/quality.py`, every kind of task on data that installs by name.

Each task is learned from the shipped weights, from scratch and by a head alone, and measured beside a guess. Writes
results/quality-DATE.json and .md, again after every task, and in the end the table in docs/fine-tuning.md: of every
task the newest row that was measured with the same settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch
from judging.cases import CASES, Case
from judging.runs import Setting, run_case
from judging.writing import replace_block, to_markdown, to_table
from measure import RESULTS, machine

from one_peace.cache import cache_folder
from one_peace.data.sample_tasks import make_sample_task

PAGE = Path(__file__).parents[1] / "docs" / "fine-tuning.md"
MARKER = "quality"
MODEL = "one-peace-nano"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"some of {', '.join(case.table for case in CASES)}; by default all")
    parser.add_argument("--part", type=float, default=1.0, help="share of the updates")
    parser.add_argument("--processes", type=int, default=2, help="tasks at once, one thread each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default=MODEL, help="the weights in question")
    parser.add_argument("--tables", type=Path, help="tables by `one-peace prepare`; made there where they are missing")
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known = {case.table: case for case in CASES}
    if unknown := [name for name in options.tasks if name not in known]:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(known)}")
    if not 0 < options.part <= 1 or options.processes < 1:
        parser.error("--part is more than 0 and at most 1, --processes at least 1")
    chosen = [known[name] for name in options.tasks] or list(CASES)
    tables = options.tables or (options.library or cache_folder()) / "tasks"
    for case in chosen:
        if not (tables / case.table / "train.tsv").is_file():
            print(f"making {case.table}", flush=True)
            make_sample_task(case.table, tables / case.table, options.library, say=print)
    facts = machine(torch.device("cpu")) | {"threads": 1, "processes": options.processes}
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.out / f"quality-{facts['date']}"
    settings = (options.model, options.part, options.seed)
    record: dict[str, Any] = {
        "command": _command(options),
        "model": options.model,
        "part": options.part,
        "seed": options.seed,
        "facts": facts,
        "cases": newest_cases(options.out.glob(f"{base.name}.json"), *settings),
    }
    with tempfile.TemporaryDirectory() as work:
        setting = Setting(tables, Path(work), *settings)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, spawn, initializer=_one_thread) as pool:
            for done in as_completed([pool.submit(partial(_run, case, setting)) for case in chosen]):
                made = done.result()
                record["cases"][made["table"]] = made | {"date": facts["date"]}
                keep(record, base)
    print(f"wrote {base}.json and .md")
    newest = record | {"cases": newest_cases(options.out.glob("quality-*.json"), *settings)}
    if options.out == RESULTS and all(case.table in newest["cases"] for case in CASES):
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replace_block(text, MARKER, to_table(newest)), encoding="utf-8")
        print(f"wrote the table in {PAGE.name}")


def newest_cases(records: Iterable[Path], model: str, part: float, seed: int) -> dict[str, Any]:
    """Every task as it was last measured with these settings, with its date, in the usual order. Files are named by
    their day, so that the last name is the newest."""
    cases: dict[str, Any] = {}
    for path in sorted(records):
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["model"], found["part"], found["seed"]) == (model, part, seed):
            cases |= {name: {**case, "date": found["facts"]["date"]} for name, case in found["cases"].items()}
    return _in_order(cases)


def keep(record: dict[str, Any], base: Path) -> None:
    """Writes what there is so far, tasks in their usual order."""
    record["cases"] = _in_order(record["cases"])
    base.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    base.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")


def _in_order(cases: dict[str, Any]) -> dict[str, Any]:
    order = {case.table: number for number, case in enumerate(CASES)}
    return dict(sorted(cases.items(), key=lambda entry: order.get(entry[0], len(order))))


def _run(case: Case, setting: Setting) -> dict[str, Any]:
    # Tasks that run at once share nothing but the tables.
    own = dataclasses.replace(setting, work=setting.work / case.table)
    return run_case(case, own, say=partial(print, flush=True))


def _one_thread() -> None:
    torch.set_num_threads(1)


def _command(options: argparse.Namespace) -> str:
    """The command that makes the whole table, with the arguments that change its numbers."""
    given = {"--part": options.part, "--seed": options.seed, "--model": options.model}
    usual = {"--part": 1.0, "--seed": 1, "--model": MODEL}
    changed = [f"{name} {value}" for name, value in given.items() if value != usual[name]]
    return " ".join(["python benchmarks/quality.py", *changed])


if __name__ == "__main__":
    main()
