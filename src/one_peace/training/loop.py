"""The loop that every training run goes through: updates, log, evaluation, states; on one process or on many."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from one_peace.data.lock import writer_lock
from one_peace.errors import CheckpointError, DivergenceError
from one_peace.training.best import BestModel
from one_peace.training.distributed import Processes, average_changes, average_unsharded, clip_gradients
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.log import LOG, Report, RunLog
from one_peace.training.optimizer import Groups, build_optimizer, learning_rate, set_learning_rate
from one_peace.training.recipe import OptimizerRecipe
from one_peace.training.state import RunState, statistics
from one_peace.training.trackers import open_trackers

LOCK = ".writer.lock"

Gradients = Callable[[int], dict[str, Tensor]]
"""Adds the gradients of an update, given its number from 0, to the parameters -> its losses (scalars), `total` among
them."""


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of a recipe. `values` is the whole recipe, for trackers; `counts` names the losses that are
    summed over processes, not averaged; `groups` are groups of parameters, where a family of models has its own."""

    steps: int
    optimizer: OptimizerRecipe
    log_every: int
    save_every: int
    trackers: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None
    counts: tuple[str, ...] = ()
    groups: Groups | None = None


class Pace(Protocol):
    """How fast the run goes (`throughput.py`)."""

    def rates(self, done: int) -> dict[str, float]:
        """Figures for a row of the log."""

    def paused(self) -> AbstractContextManager[None]:
        """A context whose time does not count."""


@dataclass(frozen=True)
class Judge:
    """Evaluation during a run: when it is due, its figures, which of them chooses the best model, how that is saved.

    The run ends after `patience` evaluations in a row without a better model.
    """

    due: Callable[[int], bool]
    figures: Callable[[WeightAverage | None], dict[str, float]]
    best_by: str
    save: Callable[[Path], Any]
    patience: int | None = None

    def tired(self, best_step: int, done: int) -> bool:
        """Whether too many evaluations have passed without a better model."""
        if self.patience is None:
            return False
        return sum(self.due(step) for step in range(best_step + 1, done + 1)) >= self.patience


@dataclass(frozen=True)
class Tally:
    """What a run counts of its data: the totals of all processes, for its saved states, and what takes those of the
    state that it goes on from. Every process calls both."""

    totals: Callable[[], Mapping[str, float]]
    go_on: Callable[[Mapping[str, float]], None]


def run_updates(
    model: nn.Module,
    settings: LoopSettings,
    gradients: Gradients,
    out: Path,
    processes: Processes,
    report: Report | None = None,
    *,
    pace: Callable[[int], Pace] | None = None,
    extra: Callable[[], dict[str, float]] = dict,
    judge: Judge | None = None,
    tally: Tally | None = None,
    tick: Callable[[int], None] | None = None,
) -> tuple[int, bool]:
    """Runs updates of `model` in place up to `settings.steps` -> (how many are done, whether the run is over).

    It is not over after a SIGTERM. `out` gets `log.jsonl`, `state/` to go on from, and with a judge the `best/` model.
    At the end the model holds the averaged weights, if there is an average. `pace` is made at the first update's
    number, `extra` adds to the rows of the log, `tick` is told of every update.

    Raises:
        FolderBusyError: another run is at work in `out`.
        CheckpointError: the state in `out` does not fit the model, or the last state could not be saved.
        DivergenceError: more than `optimizer.skip_limit` updates in a row had a gradient that is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    with writer_lock(out / LOCK) if processes.first else nullcontext():
        updates = Updates(model, settings, gradients, processes)
        state = RunState(out / "state", model, updates.optimizer, updates.average, processes)
        first, updates.skipped = state.restore()
        if tally is not None and state.counts:
            tally.go_on(state.counts)
        best = None
        if judge is not None:
            save = partial(_save_measured, judge, model, updates.average)
            best = BestModel(out, judge.best_by, save, processes, _judged_on(settings.values))
            best.restore(*state.best.tolist())
        done = first
        over = first >= settings.steps or (best is not None and judge is not None and judge.tired(best.step, first))
        with (
            state,
            open_trackers(settings.trackers if processes.first else (), out, settings.values or {}, first) as trackers,
            RunLog(out / LOG, first, report, trackers, processes) as log,
            _sigterm() as terminated,
        ):
            running = None if pace is None else pace(first)
            # Losses of the updates since the last row, not every one of which has every loss: before the state that
            # the run went on from, and after it.
            earlier: Mapping[str, float] = state.losses
            values: dict[str, Tensor] = {}
            for step in range(first, settings.steps if not over else first):
                losses, row = updates.take(step, partial(_saved, state))
                values |= losses
                done = step + 1
                if done % settings.log_every == 0 or done == settings.steps or updates.in_a_row:
                    averaged = {**earlier, **processes.mean(values, settings.counts)}
                    if running is not None:
                        row |= running.rates(done)
                    row |= {name: round(value, 5) for name, value in averaged.items()} | extra()
                    log.write(row | ({"skipped": updates.skipped} if updates.skipped else {}))
                    earlier, values = {}, {}
                if tick is not None:
                    tick(done)
                if best is not None and judge is not None and judge.due(done):
                    with running.paused() if running is not None else nullcontext():
                        figures = judge.figures(updates.average)
                        log.warn(done, best.offer(done, figures))
                        state.best = torch.tensor([best.value, best.step], dtype=torch.float64)
                    log.write({"step": done, **figures, "best_step": best.step})
                    over = judge.tired(best.step, done)
                stop = processes.any(terminated.is_set())
                over = over or done == settings.steps
                if done % settings.save_every == 0 or over or stop:
                    state.counts = {} if tally is None else tally.totals()
                    state.losses = {**earlier, **processes.mean(values, settings.counts)} if values else {}
                    log.warn(done, state.save(done, updates.skipped))
                else:
                    log.warn(done, state.poll())
                if stop or over:
                    break
            if problem := state.wait():
                raise CheckpointError(f"{problem}. Make room and run the same command again")
            if not over:
                log.warn(done, f"stopped by SIGTERM after {done} of {settings.steps} updates; the same command goes on")
        model.eval()
        if updates.average is not None and over:
            updates.average.copy_to_model()
        return done, over


class Updates:
    """The updates of a model in training, one after the other: gradients, learning rate, clipping, average.

    `skipped` counts those whose gradient was not finite and which changed nothing, `in_a_row` those since the last good
    one.
    Statistics of the model, as of batch norms, are the mean of those of all processes after every update, so that a
    saved state, which has those of one, goes on as the run would have.
    """

    def __init__(self, model: nn.Module, settings: LoopSettings, gradients: Gradients, processes: Processes) -> None:
        self.settings, self.gradients, self.processes = settings, gradients, processes
        self.optimizer = build_optimizer(model, settings.optimizer, settings.groups)
        self.skipped = self.in_a_row = 0
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.trained = [parameter for _, parameter in trained]
        kept = list(statistics(model))
        self.statistics = [value for _, value in kept]
        self.average = None
        if settings.optimizer.ema_decay is not None:
            averaged_too = [(name, value) for name, value in kept if value.is_floating_point()]
            start = settings.optimizer.ema_start
            self.average = WeightAverage([*trained, *averaged_too], settings.optimizer.ema_decay, start)

    def take(self, step: int, saved: Callable[[], str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The update of number `step`, from 0 -> its losses, and the row of the log that begins with it.

        Raises:
            DivergenceError: more than `skip_limit` in a row were skipped. `saved` says what state is saved.
        """
        recipe = self.settings.optimizer
        before = [value.clone() for value in self.statistics]
        losses = {name: value.detach() for name, value in self.gradients(step).items()}
        rate = learning_rate(step, self.settings.steps, recipe)
        average_unsharded(iter(self.trained), self.processes)
        norm = clip_gradients(iter(self.trained), recipe.clip_norm or math.inf)
        if bool(torch.isfinite(norm)):
            set_learning_rate(self.optimizer, rate)
            self.optimizer.step()
            average_changes(self.statistics, before, self.processes)
            if self.average is not None:
                self.average.update(step + 1)
            self.in_a_row = 0
        else:
            for value, old in zip(self.statistics, before, strict=True):
                value.copy_(old)
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.in_a_row > recipe.skip_limit:
            raise DivergenceError(
                f"step {step}: the gradient is not finite, as in {self.in_a_row - 1} updates before it. The weights "
                f"are those of step {step + 1 - self.in_a_row}; {saved()}. Look at the data of these steps, or remove "
                "recipe.yaml from the run's folder and go on with a lower optimizer.lr; optimizer.skip_limit is the "
                "number of such updates in a row that are passed over"
            )
        return losses, {"step": step + 1, "lr": rate, "grad_norm": norm.item()}


def _judged_on(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a recipe's evaluation is of; not when it is due."""
    evaluation = (recipe or {}).get("evaluation") or {}
    return {key: value for key, value in evaluation.items() if key != "every"}


def _save_measured(judge: Judge, model: nn.Module, average: WeightAverage | None, folder: Path) -> None:
    """Saves the model as its figures were measured."""
    with measured(model, average):
        judge.save(folder)


def _saved(state: RunState) -> str:
    state.wait()
    return f"the state of step {state.saved_step} is saved" if state.saved_step else "no state was saved yet"


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process. Only the main thread can listen."""
    arrived = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    before = signal.signal(signal.SIGTERM, lambda *_: arrived.set())
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, before)
