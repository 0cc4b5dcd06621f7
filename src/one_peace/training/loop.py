"""The loop that every training run goes through: updates, log, evaluation, states; on one process or on many."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from one_peace.errors import CheckpointError, DivergenceError
from one_peace.training.best import BestModel
from one_peace.training.distributed import Processes, average_scalars, clip_gradients
from one_peace.training.ema import WeightAverage
from one_peace.training.log import LOG, Report, RunLog
from one_peace.training.optimizer import Groups, build_optimizer, learning_rate, set_learning_rate
from one_peace.training.recipe import OptimizerRecipe
from one_peace.training.state import RunState, statistics
from one_peace.training.trackers import open_trackers

Gradients = Callable[[int], dict[str, Tensor]]
"""Adds the gradients of an update, given its number from 0, to the parameters -> its losses (scalars), `total` among
them."""


@dataclass(frozen=True)
class LoopSettings:
    """What the loop needs of a recipe. `values` is all of it, for trackers; `counts` are the losses that are sums over
    processes and not means; `groups` those of parameters, where a family of models has its own."""

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
    """Evaluation during a run: when it is due, its figures, by which of them the best model is chosen, how it is saved.

    `patience` ends the run after so many evaluations in a row without a better one.
    """

    due: Callable[[int], bool]
    figures: Callable[[WeightAverage | None], dict[str, float]]
    best_by: str
    save: Callable[[Path], Any]
    patience: int | None = None

    def tired(self, best_step: int, done: int) -> bool:
        """Whether the last better model is too many evaluations ago."""
        if self.patience is None:
            return False
        return sum(self.due(step) for step in range(best_step + 1, done + 1)) >= self.patience


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
    tick: Callable[[int], None] | None = None,
) -> tuple[int, bool]:
    """Runs updates of `model` in place up to `settings.steps` -> (how many are done, whether the run is over).

    It is not over after a SIGTERM. `out` gets `log.jsonl`, `state/` to go on from, and with a judge the `best/` model.
    At the end the model holds the averaged weights, if there is an average. `pace` is made at the first update's
    number, `extra` adds to the rows of the log, `tick` is told of every update.

    Raises:
        CheckpointError: the state in `out` does not fit the model, or the last state could not be saved.
        DivergenceError: more than `optimizer.skip_limit` updates in a row had a gradient that is not finite.
    """
    recipe = settings.optimizer
    optimizer = build_optimizer(model, recipe, settings.groups)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    averaged_too = [(name, value) for name, value in statistics(model) if value.is_floating_point()]
    average = None
    if recipe.ema_decay is not None:
        average = WeightAverage([*trained, *averaged_too], recipe.ema_decay, recipe.ema_start)
    state = RunState(out / "state", model, optimizer, average, processes)
    first, skipped = state.restore()
    best = None
    if judge is not None:
        best = BestModel(out, judge.best_by, judge.save, processes)
        best.restore(*state.best.tolist())
    done, in_a_row, over = first, 0, first >= settings.steps
    if best is not None and judge is not None and judge.tired(best.step, first):
        over = True
    with (
        state,
        open_trackers(settings.trackers if processes.first else (), out, settings.values or {}, first) as trackers,
        RunLog(out / LOG, first, report, trackers, processes) as log,
        _sigterm() as terminated,
    ):
        running = None if pace is None else pace(first)
        values: dict[str, Tensor] = {}  # of the updates since the last row: not every one has every loss
        for step in range(first, settings.steps if not over else first):
            values |= {name: value.detach() for name, value in gradients(step).items()}
            rate = learning_rate(step, settings.steps, recipe)
            average_scalars((p for _, p in trained), processes)
            norm = clip_gradients((p for _, p in trained), recipe.clip_norm or math.inf)
            finite = bool(torch.isfinite(norm))
            if finite:
                set_learning_rate(optimizer, rate)
                optimizer.step()
                if average is not None:
                    average.update(step + 1)
                in_a_row = 0
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if in_a_row > recipe.skip_limit:
                state.wait()  # to say what is saved
                raise DivergenceError(
                    f"step {step}: the gradient is not finite, as in {in_a_row - 1} updates before it. The weights are "
                    f"those of step {step + 1 - in_a_row}; {_saved(state)}. Lower optimizer.lr, or look at the data of "
                    "these steps; optimizer.skip_limit is the number of such updates in a row that are passed over"
                )
            if done % settings.log_every == 0 or done == settings.steps or not finite:
                averaged = processes.mean(values, settings.counts)
                row: dict[str, Any] = {"step": done, "lr": rate, "grad_norm": norm.item()}
                if running is not None:
                    row |= running.rates(done)
                row |= {name: round(value, 5) for name, value in averaged.items()} | extra()
                log.write(row | ({"skipped": skipped} if skipped else {}))
                values = {}
            if tick is not None:
                tick(done)
            if best is not None and judge is not None and judge.due(done):
                with running.paused() if running is not None else _nothing():
                    figures = judge.figures(average)
                    log.warn(done, best.offer(done, figures))
                    state.best = torch.tensor([best.value, best.step], dtype=torch.float64)
                log.write({"step": done, **figures, "best_step": best.step})
                over = judge.tired(best.step, done)
            stop = processes.any(terminated.is_set())
            over = over or done == settings.steps
            if done % settings.save_every == 0 or over or stop:
                log.warn(done, state.save(done, skipped))
            else:
                log.warn(done, state.poll())
            if stop or over:
                break
        if problem := state.wait():
            raise CheckpointError(f"{problem}. Make room and run the same command again")
    model.eval()
    if average is not None and over:
        average.copy_to_model()
    return done, over


def _saved(state: RunState) -> str:
    return f"the state of step {state.saved_step} is saved" if state.saved_step else "no state was saved yet"


@contextmanager
def _nothing() -> Iterator[None]:
    yield


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
