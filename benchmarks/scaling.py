"""What MiCo gains by more modalities, more data, a larger model, more objectives: `python benchmarks/scaling.py`.

The four panels of the paper's figure (arXiv 2406.09412) as small models on the sample library: pictures, sounds with
the pictures that they belong to, animated emoji as videos. There are no real depth or normal maps in the library, so
that step is missing. All arms see equally many batches of pictures, by the project's own losses and loop, and are
measured by retrieval between held-out captions and pictures. Writes results/scaling-DATE.json, .md and .png, again
after every seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, machine
from studies.mico_setting import OBJECTIVES, READ, SIZES, Arm, Scale, World, train
from studies.writing import Panel, draw, origin

from one_peace.data.sample_library.building import build_sample_library
from one_peace.training.distributed import Processes
from one_peace.training.mico.update import MiCoPass

LIBRARY = ("stamps", "emoji", "animations")
QUESTION = "What MiCo gains by modalities, data, size and objectives"
FIRST_SEED = 1
PANELS: dict[str, dict[str, Arm]] = {
    "modalities": {
        "pictures": Arm(("pictures",)),
        "+ sounds": Arm(("pictures", "sounds")),
        "+ videos": Arm(),
    },
    "data": {"a tenth": Arm(share=0.1), "three tenths": Arm(share=0.3), "all": Arm()},
    "model": {name: Arm(size=name) for name in SIZES},
    "objectives": {name: Arm(objectives=name) for name in OBJECTIVES},
}


def run_study(
    world: World, seeds: int, keep: Callable[[dict[str, Any]], None], panels: Mapping[str, Mapping[str, Arm]] = PANELS
) -> dict[str, Any]:
    """All arms with every seed -> the record; `keep` gets it after each seed. Equal arms of panels are one run."""
    texts = len(world.evaluator.texts)
    pictures = len(world.evaluator.examples)
    record: dict[str, Any] = {
        "scale": dataclasses.asdict(world.scale),
        "held_out": {"pictures": pictures, "captions": texts},
        "training_captions": {name: min(len(rows), world.scale.clips) for name, rows in world.rows.items()},
        # the mean over k of 1, 5, 10 and both ways, of rankings that know nothing
        "chance": sum(k / n for k in (1, 5, 10) for n in (texts, pictures)) / 6,
        "panels": {panel: list(arms) for panel, arms in panels.items()},
        "seeds": 0,
        "runs": [],
    }
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        done: dict[Arm, dict[str, Any]] = {}
        for panel, arms in panels.items():
            for name, arm in arms.items():
                if arm not in done:
                    began = time.process_time()
                    model, updates = train(world, arm, seed)
                    figures = world.evaluator(MiCoPass(model, Processes()))
                    done[arm] = {
                        "updates": updates,
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "cpu_seconds": round(time.process_time() - began, 1),
                        "figures": {key.removeprefix("eval/"): round(value, 5) for key, value in figures.items()},
                    }
                    print(f"seed {seed}, {panel}, {name}: {done[arm]}", flush=True)
                record["runs"].append({"panel": panel, "arm": name, "seed": seed, **done[arm]})
        record["seeds"] += 1
        keep(record)
    return record


def panels_of(record: Mapping[str, Any]) -> list[Panel]:
    """The mean recall of each panel's arms."""

    def values(panel: str, arm: str) -> list[float]:
        runs = [run for run in record["runs"] if (run["panel"], run["arm"]) == (panel, arm)]
        return [run["figures"]["recall"] for run in runs]

    return [
        Panel(panel, {arm: values(panel, arm) for arm in arms}, dict.fromkeys(arms, record["chance"]))
        for panel, arms in record["panels"].items()
    ]


def to_markdown(record: Mapping[str, Any]) -> str:
    """Every arm with its interval, its difference to the first of its panel, and whether it is beyond chance."""
    shown = record["held_out"]
    lines = [
        f"# {QUESTION}",
        "",
        origin(record),
        "",
        f"Figure: the mean of recall@1, 5 and 10 both ways between {shown['pictures']} held-out pictures and "
        f"{shown['captions']} captions that no arm has read; rankings that know nothing reach {record['chance']:.3f}. "
        "All arms see equally many batches of pictures; sounds and videos come on top. Captions to train on: "
        f"{', '.join(f'{n} of {name}' for name, n in record['training_captions'].items())}. There are no real depth or "
        "normal maps in the sample library, so that arm is missing. The paper shows training losses; held-out "
        "retrieval is what they are meant to stand for.",
        "",
        "Means over seeds with 95 % intervals (Student's t), differences seed by seed to the first arm of the panel. "
        "**Bold**: the interval leaves out 0.",
        "",
        "| panel | arm | parameters | updates | CPU s | mean recall (95 %) | difference (95 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    helped = []
    for panel in panels_of(record):
        for arm in panel.arms:
            run = next(r for r in record["runs"] if (r["panel"], r["arm"]) == (panel.title, arm))
            if (gap := panel.gap(arm)) is not None and gap.low > 0:
                helped.append(f"{panel.title}: {arm}")
            lines.append(
                f"| {panel.title} | {arm} | {run['parameters']:,} | {run['updates']} | {run['cpu_seconds']:.0f} | "
                f"{panel.cells(arm)} |"
            )
    lines += ["", "Significantly better than the first arm of the panel: " + ("; ".join(helped) or "none") + "."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Scale.steps, help="updates with pictures")
    parser.add_argument("--clips", type=int, default=Scale.clips, help="most captions of a source")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.steps < 2 or options.seeds < 1 or options.clips < 20:
        parser.error("--steps is at least 2, --seeds at least 1, --clips at least 20")
    torch.set_num_threads(options.threads)
    facts = machine(torch.device("cpu"))
    base = options.out / f"scaling-{facts['date']}"
    command = f"python benchmarks/scaling.py --steps {options.steps} --clips {options.clips} --seeds {options.seeds}"

    def keep(record: dict[str, Any]) -> None:
        whole = {"command": command, "facts": facts} | record
        base.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        base.with_suffix(".md").write_text(to_markdown(whole), encoding="utf-8")
        draw(panels_of(whole), f"{QUESTION}: mean recall", base.with_suffix(".png"))

    items = build_sample_library(options.library, LIBRARY, progress=print).items
    scale = dataclasses.replace(Scale(), steps=options.steps, clips=options.clips)
    options.out.mkdir(parents=True, exist_ok=True)
    run_study(World(items, scale, tuple(READ)), options.seeds, keep)
    print(f"wrote {base}.json, .md and .png")


if __name__ == "__main__":
    main()
