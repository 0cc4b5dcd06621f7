"""The pretraining loop, on one process or on many: seeded, logged, restartable."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from one_peace.errors import CheckpointError, DivergenceError
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import freeze_for_stage
from one_peace.training.distributed import Processes, average_scalars, clip_gradients, prepare_model
from one_peace.training.ema import WeightAverage
from one_peace.training.gradients import COUNTS, BatchSource, Update
from one_peace.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from one_peace.training.recipe import PretrainRecipe
from one_peace.training.state import RunState

Report = Callable[[dict[str, Any]], None]


def pretrain(
    model: OnePeaceForPretraining,
    recipe: PretrainRecipe,
    processors: Mapping[str, Processor],
    batches: BatchSource,
    out: Path,
    device: str = "cpu",
    report: Report | None = None,
    processes: Processes | None = None,
) -> int:
    """Runs updates of `model` in place up to `recipe.steps` -> how many are done, fewer after a SIGTERM.

    `out` gets `log.jsonl` and `state/` to go on from. At the end the model holds the averaged weights, if the
    recipe asks for an average.

    Raises:
        CheckpointError: the state in `out` does not fit the model, or the last state could not be saved.
        DivergenceError: more than `optimizer.skip_limit` updates in a row had a gradient that is not finite.
    """
    processes = processes or Processes()
    out.mkdir(parents=True, exist_ok=True)
    model.train()
    freeze_for_stage(model, recipe.stage)
    losses = prepare_model(model, recipe.stage, recipe.engine, processes, device)
    optimizer = build_optimizer(model, recipe.optimizer)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    average = None
    if recipe.optimizer.ema_decay is not None:
        average = WeightAverage(trained, recipe.optimizer.ema_decay, recipe.optimizer.ema_start)
    state = RunState(out / "state", model, optimizer, average, processes)
    first, skipped = state.restore()
    update = Update(losses, recipe, processors, batches, processes, device)
    done, in_a_row = first, 0
    with state, _Log(out / "log.jsonl", first, report, processes) as log, _sigterm() as terminated:
        began = time.monotonic()
        for step in range(first, recipe.steps):
            values = update.gradients(step)
            rate = learning_rate(step, recipe.steps, recipe.optimizer)
            average_scalars((p for _, p in trained), processes)
            norm = clip_gradients((p for _, p in trained), recipe.optimizer.clip_norm)
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
            if in_a_row > recipe.optimizer.skip_limit:
                state.wait()  # to say what is saved
                raise DivergenceError(
                    f"step {step}: the gradient is not finite, as in {in_a_row - 1} updates before it. The weights are "
                    f"those of step {step + 1 - in_a_row}; {_saved(state)}. Lower optimizer.lr, or look at the data of "
                    "these steps; optimizer.skip_limit is the number of such updates in a row that are passed over"
                )
            if done % recipe.log_every == 0 or done == recipe.steps or not finite:
                averaged = processes.mean(values, COUNTS)
                row = {"step": done, "lr": rate, "grad_norm": norm.item()}
                row["pairs_per_second"] = round(recipe.batch_size * (done - first) / (time.monotonic() - began), 1)
                row |= {name: round(value, 5) for name, value in averaged.items()}
                row["temperature"] = round(model.encoder.temperature().item(), 3)
                log.write(row | ({"skipped": skipped} if skipped else {}))
            stop = processes.any(terminated.is_set())
            if done % recipe.save_every == 0 or done == recipe.steps or stop:
                log.warn(done, state.save(done, skipped))
            else:
                log.warn(done, state.poll())
            if stop:
                break
        if problem := state.wait():
            raise CheckpointError(f"{problem}. Make room and run the same command again")
    model.eval()
    if average is not None and done >= recipe.steps:
        average.copy_to_model()
    return done


def _saved(state: RunState) -> str:
    return f"the state of step {state.saved_step} is saved" if state.saved_step else "no state was saved yet"


class _Log:
    """`log.jsonl` and the report, by the first process. What a killed run wrote after its last state is taken back."""

    def __init__(self, path: Path, first: int, report: Report | None, processes: Processes) -> None:
        self.report = report
        self.file = None
        if processes.first:
            if path.exists():
                _cut(path, first)
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """One line; a number that is not finite becomes null, which JSON can say."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        if self.file is not None:
            self.file.write(json.dumps(clean) + "\n")
            self.file.flush()
            if self.report:
                self.report(clean)

    def warn(self, step: int, problem: str | None) -> None:
        """Tells of a save that failed; training goes on."""
        if problem and self.file is not None and self.report:
            self.report({"step": step, "warning": problem})


def _cut(path: Path, step: int) -> None:
    """Keeps the rows up to `step`; what was computed after it will be computed again."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a killed process
        if isinstance(row, dict) and row.get("step", 0) <= step:
            kept.append(line + "\n")
    shorter = path.with_suffix(".partial")
    shorter.write_text("".join(kept), encoding="utf-8")
    os.replace(shorter, path)


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
