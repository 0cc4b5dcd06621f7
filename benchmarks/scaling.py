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
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, machine
from studies.writing import Panel, draw, origin

from one_peace.checkpoints.mico_config import input_settings
from one_peace.data.clips import LibraryClips
from one_peace.data.manifest import Item
from one_peace.data.sample_library import build_sample_library
from one_peace.modalities.base import Processor
from one_peace.modalities.wordpiece import WordPieces, train_word_pieces
from one_peace.models.mico.config import MiCoConfig
from one_peace.models.mico.loading import open_processors
from one_peace.models.mico.model import MiCoModel
from one_peace.tasks.mico.clips import ClipReader
from one_peace.tasks.mico.pretraining import MiCoTask, parse_tasks
from one_peace.tasks.mico.remembered import Remembered
from one_peace.training.distributed import Processes, prepare_model
from one_peace.training.examples import Examples
from one_peace.training.loop import LoopSettings, run_updates
from one_peace.training.mico.evaluation import MiCoEvaluator
from one_peace.training.mico.recipe import SAMPLE_LIBRARY, ClipSource, MiCoRecipe
from one_peace.training.mico.update import ClipBatches, MiCoLosses, MiCoUpdate
from one_peace.training.run import held_out_captions

LIBRARY = ("stamps", "emoji", "animations")
PICTURES = ("tuxpaint-stamps-default", "@lobehub/fluent-emoji-3d")
QUESTION = "What MiCo gains by modalities, data, size and objectives"
FIRST_SEED = 1


@dataclass(frozen=True)
class Scale:
    """Sizes of the runs: updates with pictures, pairs of each, pixels of a frame, frames of a video, slices of a sound
    (a slice is as many hundredths of a second as it has pixels), and the most captions of a source."""

    steps: int = 150
    batch_size: int = 32
    size: int = 42
    frames: int = 2
    slices: int = 2
    lr: float = 1e-3
    vocabulary: int = 1500
    clips: int = 600
    held_out: int = 200


@dataclass(frozen=True)
class Arm:
    """One model: what it sees, how much of it, how large it is, what it learns by."""

    sources: tuple[str, ...] = ("pictures", "sounds", "videos")
    share: float = 1.0
    size: str = "middle"
    objectives: str = "contrast, matching, captions"


SIZES = {"small": (44, 2), "middle": (88, 3), "large": (132, 4)}  # width and layers of the tower
OBJECTIVES = {"contrast": (), "contrast, matching": ("matching",), "contrast, matching, captions": ("matching", "cap")}
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
TUPLES = {"pictures": "tv", "sounds": "tv%ta%tva", "videos": "tv"}
READ = {"pictures": ("image",), "sounds": ("image", "audio"), "videos": ("video",)}
ONLY = {"pictures": PICTURES, "sounds": ("effect", "speech"), "videos": ()}
WEIGHT = {"pictures": 2, "sounds": 1, "videos": 1}  # batches, relative to each other


class Few:
    """A share of the rows of a source."""

    def __init__(self, rows: LibraryClips, share: float, most: int) -> None:
        self.rows, self.path, self.media = rows, rows.path, rows.media
        self.count = max(2, round(share * min(len(rows), most)))

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> tuple[str, dict[str, Any]]:
        return self.rows.row(index * len(self.rows) // self.count)


@dataclass
class World:
    """What all arms share: the items, the vocabulary, the processors, the held-out pictures."""

    items: Sequence[Item]
    scale: Scale
    kinds: Sequence[str] = field(default_factory=list)

    @cached_property
    def rows(self) -> dict[str, LibraryClips]:
        withheld = held_out_captions(self.items)
        return {name: LibraryClips(self.items, READ[name], only=ONLY[name], withheld=withheld) for name in self.kinds}

    @cached_property
    def pieces(self) -> WordPieces:
        texts = {text for rows in self.rows.values() for clips in rows.clips for c in clips for text in c["caption"]}
        return train_word_pieces(sorted(texts), self.scale.vocabulary)

    @cached_property
    def processors(self) -> dict[str, Processor]:
        made = open_processors(self.config("middle"), self.pieces)
        return {name: p if name == "text" else Remembered(p) for name, p in made.items()}

    @cached_property
    def evaluator(self) -> MiCoEvaluator:
        task = MiCoTask("retrieval", (("vision",),))
        reader = ClipReader(self.processors, self.config("middle"), ("image",), [task], strength=0.0)
        held_out = [dataclasses.replace(i, split="val") for i in self.items if i.split != "train"]
        rows = LibraryClips(held_out, ("image",), split="val", only=PICTURES)
        return MiCoEvaluator(reader, rows, [("vision",)], self.scale.held_out)

    def config(self, size: str) -> MiCoConfig:
        width, layers = SIZES[size]
        text = max(32, width * 6 // 11 // 2 * 2)
        frames = {"vision": self.scale.frames, "audio": self.scale.slices, "depth": 1}
        tower = {"width": width, "layers": layers, "heads": width // 44, "ffn_width": 4 * width, "patch": 14}
        return MiCoConfig.from_dict(
            {
                "name": f"study-{size}",
                "tower": {**tower, "image_size": self.scale.size},
                "text": {
                    "width": text,
                    "layers": 2,
                    "heads": 2,
                    "ffn_width": 4 * text,
                    "vocab_size": self.pieces.vocab_size,
                    "dropout": 0.0,
                },
                "contrast_width": text,
                "frames": frames,
                "modalities": input_settings(self.scale.size, frames),
                "max_caption_tokens": 14,
            }
        )


def tasks_of(source: str, objectives: str) -> tuple[MiCoTask, ...]:
    """Retrieval, and where it is asked for captions, of all tuples of a source."""
    more = OBJECTIVES[objectives]
    return parse_tasks(f"ret%{TUPLES[source]}" + (f"_cap%{TUPLES[source]}" if "cap" in more else ""))


def train(world: World, arm: Arm, seed: int) -> tuple[MiCoModel, int]:
    """A fresh model after its updates -> it, and how many they were."""
    scale = world.scale
    names = [name for name in arm.sources if name in world.kinds]
    total = scale.steps * sum(WEIGHT[name] for name in names) // WEIGHT["pictures"]
    config = world.config(arm.size)
    if "matching" not in OBJECTIVES[arm.objectives]:
        config = dataclasses.replace(config, matching_weight=0.0)
    sources = {
        name: ClipSource(SAMPLE_LIBRARY, READ[name], tasks_of(name, arm.objectives), weight=WEIGHT[name])
        for name in names
    }
    recipe = MiCoRecipe.from_dict(
        {
            "model": "study",  # not looked up
            "sources": {name: dataclasses.asdict(source) for name, source in sources.items()},
            "steps": total,
            "batch_size": scale.batch_size,
            "optimizer": {"lr": scale.lr, "warmup_steps": max(1, total // 10)},
            "tower_lr": scale.lr,
            "log_every": total,
            "save_every": total,
            "seed": seed,
        }
    )
    readers = {n: ClipReader(world.processors, config, READ[n], sources[n].tasks) for n in names}
    examples = {n: Examples(Few(world.rows[n], arm.share, scale.clips), readers[n], seed) for n in names}
    torch.manual_seed(seed)
    model = MiCoModel(config)
    model.initialise()
    losses = prepare_model(MiCoLosses(model.train(), Processes()), recipe.engine, Processes(), "cpu")
    update = MiCoUpdate(losses, recipe, readers, ClipBatches(recipe, examples), Processes(), "cpu")
    settings = LoopSettings(total, recipe.schedule(), total, total, groups=recipe.groups())
    with tempfile.TemporaryDirectory() as folder:
        _, over = run_updates(model, settings, update.gradients, Path(folder), Processes())
    if not over:
        raise SystemExit("stopped by SIGTERM: an arm that was cut short says nothing")
    return model, total


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
                    figures = world.evaluator(MiCoLosses(model, Processes()))
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
