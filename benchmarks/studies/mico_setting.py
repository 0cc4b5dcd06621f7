"""What the arms of MiCo's study share: sizes, the data, one call into the project's training loop."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from one_peace.checkpoints.mico.config import input_settings
from one_peace.data.clips import LibraryClips
from one_peace.data.manifest import Item, held_out_captions
from one_peace.modalities.base import Processor
from one_peace.modalities.wordpiece import WordPieces, train_word_pieces
from one_peace.models.mico.config import MiCoConfig
from one_peace.models.mico.loading import open_processors
from one_peace.models.mico.model import MiCoModel
from one_peace.tasks.mico.clips import ClipReader
from one_peace.tasks.mico.pretraining import MiCoTask, parse_tasks
from one_peace.tasks.mico.remembered import Remembered
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import Examples
from one_peace.training.forward_pass import prepare_model
from one_peace.training.loop import LoopSettings, run_updates
from one_peace.training.mico.evaluation import MiCoEvaluator
from one_peace.training.mico.recipe import SAMPLE_LIBRARY, ClipSource, MiCoRecipe
from one_peace.training.mico.update import ClipBatches, MiCoPass, MiCoUpdate

PICTURES = ("tuxpaint-stamps-default", "@lobehub/fluent-emoji-3d")


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
    losses = prepare_model(MiCoPass(model.train(), Processes()), recipe.engine, Processes(), "cpu")
    update = MiCoUpdate(losses, recipe, readers, ClipBatches(recipe, examples), Processes(), "cpu")
    settings = LoopSettings(total, recipe.optimizer, total, total, groups=recipe.groups())
    with tempfile.TemporaryDirectory() as folder:
        _, over = run_updates(model, settings, update.gradients, Path(folder), Processes())
    if not over:
        raise SystemExit("stopped by SIGTERM: an arm that was cut short says nothing")
    return model, total
