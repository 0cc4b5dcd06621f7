"""Tiny pretraining runs, in this process or in several, and what they leave in their folders."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor

from one_peace.modalities.base import Example
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.held_out import HeldOut
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT
from one_peace.training.distributed import Processes, join_processes
from one_peace.training.initial_values import empty_model, fill, fresh_values
from one_peace.training.pretraining.evaluation import Evaluator
from one_peace.training.pretraining.pretrain import Watch, pretrain
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe
from one_peace.training.saving import save_for_training
from run_folders import log_of
from tiny_models import CAPTIONS, CONFIG, tiny_model, tiny_pairs, tiny_processors
from warm_processes import WarmProcess, run_command, start_together

RECIPE = PretrainRecipe(
    model="tiny",
    stage=IMAGE_TEXT,
    steps=8,
    batch_size=5,
    optimizer=OptimizerRecipe(lr=3e-3, warmup_steps=2),
    log_every=1,
    save_every=3,
)
PROCESSORS = tiny_processors()
Pairs = list[tuple[Example, Example]]
GO_ON = "go-on"  # a file in the folder of a run of the source `slowly`, which waits for it after its sixth update


class Clock:
    """Time that passes when a test says so, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def batches(size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> Pairs:
    return tiny_pairs(PROCESSORS, "image", 1000 * seed + step)[:size][share(size, rank, world)]


def sounds(size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> Pairs:
    return tiny_pairs(PROCESSORS, "audio", 1000 * seed + step)[:size][share(size, rank, world)]


def share(size: int, rank: int, world: int) -> slice:
    return slice(rank * size // world, (rank + 1) * size // world)


def fresh(drop_path: float = 0.3) -> OnePeaceForPretraining:
    """With drop path, so that the global generator has to be right after a resumption too."""
    return tiny_model(config=dataclasses.replace(CONFIG, drop_path=drop_path))


def held_out() -> HeldOut:
    """A picture of every caption, with noise that training never sees."""
    return HeldOut([partner for _, partner in batches(5, 0, 999)], list(CAPTIONS), torch.eye(5, dtype=torch.bool))


def evaluator_of(recipe: PretrainRecipe, processes: Processes | None = None) -> Evaluator:
    return Evaluator(recipe, PROCESSORS, held_out(), held_out(), "cpu", processes or Processes())


def curve_of(folder: Path) -> list[tuple[float, ...]]:
    """What a restart must not change of the log."""
    return [(row["step"], row["total"], row["contrast"], row["grad_norm"]) for row in log_of(folder)]


def read_state(folder: Path) -> dict[str, Tensor]:
    """Everything in the one state of a run, by name."""
    (path,) = (folder / "state").iterdir()
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    state = {name: torch.empty(value.size, dtype=value.properties.dtype) for name, value in stored.items()}
    dcp.load(state, checkpoint_id=path, no_dist=True)
    return {name.removeprefix("run."): value for name, value in state.items()}


def start(folder: Path, source: str = "batches", settings: tuple[str, ...] = (), count: int = 0) -> list[WarmProcess]:
    """Starts a run in other processes: one alone (count 0), or `count` that work together."""
    arguments = (folder, source, settings)
    return start_together(main, arguments, count) if count else [WarmProcess(main, arguments, {})]


def wait_for(path: Path, started: list[WarmProcess], text: str = "") -> None:
    """Until the file exists and holds `text`."""
    deadline = time.monotonic() + 180
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < deadline, f"{path} never came"
        assert all(process.poll() is None for process in started), started[0].errors()[-3000:]
        time.sleep(0.01)


def changed(recipe: PretrainRecipe, settings: tuple[str, ...]) -> PretrainRecipe:
    """The recipe with `key=json` settings; dotted keys reach inside."""
    for setting in settings:
        key, value = setting.split("=")
        outer, _, inner = key.partition(".")
        made = json.loads(value)
        if inner:
            made = dataclasses.replace(getattr(recipe, outer), **{inner: made})
        recipe = dataclasses.replace(recipe, **{outer: made})
    return recipe


def whole_or_share(parameter: Tensor) -> Tensor:
    """What this process has of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def main(folder: Path, source: str, settings: tuple[str, ...]) -> None:
    recipe = changed(dataclasses.replace(RECIPE, engine=EngineRecipe()), settings)
    if source == "sounds":
        recipe = dataclasses.replace(recipe, stage=AUDIO_TEXT)

    def slowly(size: int, seed: int, step: int, *place: int) -> Pairs:
        time.sleep(0.05)
        late = time.monotonic() + 60
        while step >= 6 and not (folder / GO_ON).exists() and time.monotonic() < late:  # a killed run never gets it
            time.sleep(0.01)
        return batches(size, seed, step, *place)

    sources = {"batches": batches, "sounds": sounds, "slowly": slowly, "empty": batches}

    def begin(model: OnePeaceForPretraining) -> None:
        fill(model, fresh_values(CONFIG, recipe.seed, [name for name, _ in model.named_parameters()]))
        share = sum(whole_or_share(parameter).numel() for parameter in model.parameters())
        (folder / f"share-{processes.rank}.json").write_text(str(share))

    with join_processes() as (processes, device):
        model = empty_model(CONFIG) if source == "empty" else fresh()
        started = begin if source == "empty" else None
        watch = Watch(evaluator=evaluator_of(recipe, processes) if recipe.evaluation.every else None)
        pretrain(
            model, recipe, PROCESSORS, sources[source], folder, device, processes=processes, fill=started, watch=watch
        )
        save_for_training(model, PROCESSORS, folder / "model", processes)


def run_mico_slowly(words: list[str]) -> None:
    """`one-peace WORDS`, a run of MiCo that waits after its third update long enough to be killed there."""
    from one_peace.training.mico.update import MiCoUpdate

    gradients = MiCoUpdate.gradients

    def slowly(self: MiCoUpdate, step: int) -> dict[str, Tensor]:
        time.sleep(0 if step < 3 else 60)
        return gradients(self, step)

    MiCoUpdate.gradients = slowly  # type: ignore[method-assign]
    run_command(words)
