"""What pretraining learns, one question at a time: `python benchmarks/study.py NAME [--steps N --seeds K]`.

Trains small models on the sample library, all arms of a study on the same pairs, with the project's own loop, and
measures them with its own evaluation. Writes results/study-NAME-DATE.json, .md and .png, again after every seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, machine
from studies import candidates, denoising, modalities, stages, structure, teacher
from studies.measures import judge
from studies.setting import Scale, Study, World, open_world
from studies.writing import draw, panels_of, to_markdown

from one_peace.data.sample_library.building import ALL_SOURCES, build_sample_library

STUDIES: dict[str, Study] = {
    "denoising": denoising.STUDY,
    "structure": structure.STUDY,
    "teacher": teacher.STUDY,
    "stages": stages.STUDY,
    "modalities": modalities.STUDY,
    "candidates": candidates.STUDY,
}
FIRST_SEED = 1


def run_study(world: World, study: Study, seeds: int, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All arms with every seed, seed by seed -> the record; `keep` gets it after each seed."""
    record: dict[str, Any] = {
        "question": study.question,
        "matched": study.matched,
        "scale": dataclasses.asdict(world.scale),
        "arms": [{"name": arm.name, "note": arm.note} for arm in study.arms],
        "seeds": 0,
        "runs": [],
    }
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for arm in study.arms:
            wall, cpu = time.perf_counter(), time.process_time()
            model = arm.build(world, seed)
            run: dict[str, Any] = {
                "arm": arm.name,
                "seed": seed,
                "parameters": sum(p.numel() for p in model.encoder.parameters()),
                "seconds": round(time.perf_counter() - wall, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
            }
            run["figures"] = {name: dataclasses.asdict(f) for name, f in judge(world, model).items()}
            record["runs"].append(run)
            shown = {name: round(run["figures"][name]["value"], 3) for name in study.figures if name in run["figures"]}
            print(f"seed {seed}, {arm.name}: {run['cpu_seconds']} CPU s, {shown}", flush=True)
        record["seeds"] += 1
        keep(record)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(STUDIES))
    parser.add_argument("--steps", type=int, default=Scale.steps, help="updates of the shortest arm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.steps < 10 or options.seeds < 1:
        parser.error("--steps is at least 10 and --seeds at least 1")
    torch.set_num_threads(options.threads)
    study = STUDIES[options.name]
    facts = machine(torch.device("cpu"))
    command = shlex.join(["python", "benchmarks/study.py", *_without_places(sys.argv[1:])])
    base = options.out / f"study-{options.name}-{facts['date']}"

    def keep(record: dict[str, Any]) -> None:
        whole = {"study": options.name, "command": command, "facts": facts} | record
        base.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        base.with_suffix(".md").write_text(to_markdown(whole), encoding="utf-8")
        panels = {panel.title: panel for panel in panels_of(whole)}
        draw([panels[name] for name in study.figures if name in panels], study.question, base.with_suffix(".png"))

    items = build_sample_library(options.library, ALL_SOURCES, progress=print).items
    began = time.process_time()
    world = open_world(items, dataclasses.replace(Scale(), steps=options.steps), study)
    print(f"pictures and sounds read in {time.process_time() - began:.0f} CPU s", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    run_study(world, study, options.seeds, keep)
    print(f"wrote {base}.json, .md and .png")


def _without_places(arguments: list[str]) -> list[str]:
    """The arguments that change numbers: what a reader has to repeat."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith(("--library=", "--out=")):
            skip = False
        elif argument in ("--library", "--out"):
            skip = True
        else:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
