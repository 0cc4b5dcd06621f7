"""Saved states of a run: sharded, written in the background, made current by a rename.

`state/step-00000200/` is whole or not there. A state is written to `state/partial-00000200/`, which then gets its
name; only then the one before goes. Data, masks and dropped branches of a step depend on the seed and the number of
the step alone, so that the step stands for the data position and for every random generator.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from one_peace.errors import CheckpointError
from one_peace.training.distributed import Processes
from one_peace.training.ema import WeightAverage

COMPLETE = re.compile(r"step-(\d{8,})")
COUNTS, LOSSES = "counts/", "losses/"
SHOWN = 8
CUT_SHORT = "inline_container"  # in what PyTorch's file writer says where the system's error was lost on the way
RUN = "run"  # everything stands under one key: the writer logs each key of the outermost level, at a price

# of a run on one process, which is no mistake
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a model keeps besides its parameters, as batch norms do."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return ((name, value) for name, value in model.state_dict().items() if name not in parameters)


def complete_states(folder: Path) -> dict[int, Path]:
    """The whole states in a folder by their step."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(match[1]): folder / name for name in names if (match := COMPLETE.fullmatch(name))}


def has_state(folder: Path) -> bool:
    """Whether a run can go on from a state in this folder."""
    return bool(complete_states(folder))


class RunState:
    """Saves and restores one run: weights, optimizer, average, step, skipped updates, `best` (value, step), further
    `counts`, and the `losses` that the next row of the log waits for; both are the same on all processes."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.folder, self.model, self.optimizer, self.average = folder, model, optimizer, average
        self.processes = processes or Processes()
        self.saved_step = 0
        self.best = torch.tensor([-math.inf, 0.0], dtype=torch.float64)  # evaluation
        self.counts: Mapping[str, float] = {}
        self.losses: Mapping[str, float] = {}
        self._writing: tuple[int, Future[Any]] | None = None
        self._stager = _pinned_stager(model)

    def restore(self) -> tuple[int, int]:
        """Loads the current state in place, if there is one -> (updates done, updates skipped), both 0 without.

        What an interrupted save left is removed.

        Raises:
            CheckpointError: the state is damaged, or belongs to another model; names what does not fit.
        """
        self.processes.wait()
        if self.processes.first:
            self._clean()
        self.processes.wait()
        current = self._complete()
        if not current:
            return 0, 0
        step, path = max(current.items())
        state = self._matching(path)
        try:
            load({RUN: state}, checkpoint_id=path, process_group=self.processes.saving, no_dist=self._alone)
        except (CheckpointException, OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({_cause(error)}); remove it to start again") from error
        if self.average is not None and not any(name.startswith("average/") for name in state):
            self.average.restart()
        self.saved_step = step
        self.counts, self.losses = (
            {name.removeprefix(kind): n.item() for name, n in state.items() if name.startswith(kind)}
            for kind in (COUNTS, LOSSES)
        )
        return int(state["step"]), int(state["skipped"])

    def save(self, step: int, skipped: int = 0) -> str | None:
        """Copies the state and starts to write it -> the problem of the previous write, if there was one.

        Returns as soon as the copy is made; waits for the previous write.
        """
        problem = self.wait()
        if step == self.saved_step:
            return problem
        state = self._tensors(grow=False)
        state["step"], state["skipped"], state["best"] = torch.tensor(step), torch.tensor(skipped), self.best
        for kind, numbers in ((COUNTS, self.counts), (LOSSES, self.losses)):
            state |= {f"{kind}{name}": torch.tensor(n, dtype=torch.float64) for name, n in numbers.items()}
        target = self._partial(step)
        future = async_save(
            {RUN: state},
            checkpoint_id=target,
            process_group=self.processes.saving,
            async_stager=self._stager,
            no_dist=self._alone,
        )
        assert isinstance(future, Future)
        self._writing = (step, future)
        return problem

    def wait(self) -> str | None:
        """Waits for the running write and makes its state current -> the problem, if it failed: the previous state
        stays."""
        if self._writing is None:
            return None
        (step, future), self._writing = self._writing, None
        problem = None
        try:
            future.result()
            if self.processes.first:
                self._publish(step)
        except (CheckpointException, OSError, RuntimeError) as error:
            problem = f"the state of step {step} could not be saved ({_cause(error)})"
            problem += f"; that of step {self.saved_step} is kept" if self.saved_step else "; there is none before it"
            if self.processes.first:
                shutil.rmtree(self._partial(step), ignore_errors=True)
        if self.processes.any(problem is not None):
            return problem or f"the state of step {step} could not be saved; see the first process"
        self.saved_step = step
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets a running write end: a run that fails leaves no thread behind that writes into its folder."""
        if self._writing is not None and self._alone:
            self.wait()
        elif self._writing is not None:  # the other processes may not come to an agreement on it
            self._writing[1].exception()
        if self._stager is not None:
            self._stager.close()

    def poll(self) -> str | None:
        """As `wait` once the running write has ended on all processes; until then it does nothing."""
        if self._writing is None or self.processes.any(not self._writing[1].done()):
            return None
        return self.wait()

    @property
    def _alone(self) -> bool:
        return self.processes.saving is None

    def _partial(self, step: int) -> Path:
        return self.folder / f"partial-{step:08d}"

    def _complete(self) -> dict[int, Path]:
        return complete_states(self.folder)

    def _clean(self) -> None:
        for left in self.folder.glob("partial-*"):
            shutil.rmtree(left)
        for _, path in sorted(self._complete().items())[:-1]:  # the newer was published, this not yet removed
            shutil.rmtree(path, ignore_errors=True)

    def _publish(self, step: int) -> None:
        final = self.folder / f"step-{step:08d}"
        self._partial(step).rename(final)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        for older, path in self._complete().items():
            if older < step:
                shutil.rmtree(path, ignore_errors=True)

    def _tensors(self, grow: bool) -> dict[str, Tensor]:
        """Everything by name; with `grow` also the optimizer's moments that no update has made yet."""
        state = {f"model/{name}": p.detach() for name, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            if grow and not moments and parameter.requires_grad:
                moments = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                # fused updates keep their count where the weights are
                moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state |= {f"optimizer/{name}/{key}": value for key, value in moments.items()}
        state |= {f"statistics/{name}": value for name, value in statistics(self.model)}
        if self.average is not None:
            state |= {f"average/{name}": value for name, value in self.average.averages.items()}
        return state

    def _matching(self, path: Path) -> dict[str, Tensor]:
        """The tensors to load into, once it is certain that they fit."""
        try:
            stored = FileSystemReader(path).read_metadata().state_dict_metadata
        except Exception as error:  # unpickling a damaged file can raise anything
            raise CheckpointError(f"{path}: damaged ({_cause(error)}); remove it to start again") from error
        shapes = {
            name.removeprefix(f"{RUN}."): value.size
            for name, value in stored.items()
            if isinstance(value, TensorStorageMetadata)
        }
        state = self._tensors(grow=True)
        problems = [f"{name}: not in the model" for name in shapes if name.startswith("model/") and name not in state]
        for name, tensor in list(state.items()):
            if name in shapes:
                if shapes[name] != tensor.shape:
                    problems.append(f"{name}: shape {tuple(shapes[name])}, expected {tuple(tensor.shape)}")
            elif name.startswith("model/"):
                problems.append(f"{name}: missing")
            else:
                del state[name]  # never updated, or an average that the run did not have: as fresh
        if problems:
            problems.sort(key=lambda problem: problem.endswith(("missing", "not in the model")))  # shapes say most
            more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
            listed = "\n  ".join([*problems[:SHOWN], *more])
            raise CheckpointError(
                f"{path} is of another model than this recipe's: {len(problems)} tensors do not fit. "
                f"Use another run folder, or the recipe of this one.\n  {listed}"
            )
        self._adopt(state)
        state["step"], state["skipped"] = torch.tensor(0), torch.tensor(0)
        state["best"] = self.best
        numbers = [name for name in shapes if name.startswith((COUNTS, LOSSES))]
        return state | {name: torch.zeros((), dtype=torch.float64) for name in numbers}

    def _adopt(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            start = f"optimizer/{name}/"
            moments = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            if moments:
                self.optimizer.state[parameter] = moments


def _pinned_stager(model: nn.Module) -> DefaultStager | None:
    """For weights on a GPU: copies them to page-locked memory, which is kept, at the full speed of the bus."""
    if not any(parameter.is_cuda for parameter in model.parameters()):
        return None
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=True, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=True
        )
    )


def _cause(error: BaseException) -> str:
    """The innermost reason, on one line: what the writer says is wrapped several times."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    while error.__cause__ is not None:
        error = error.__cause__
    # What the system said goes before what the writer then found wrong with its own file.
    told, seen = error, [error]
    while (inner := seen[-1].__cause__ or seen[-1].__context__) is not None and inner not in seen:
        seen.append(inner)
        told = inner if isinstance(inner, OSError) else told
    lines = str(told).strip().splitlines()
    reason = lines[-1] if lines else type(told).__name__
    return f"a file was cut short, as on a full disk: {reason}" if CUT_SHORT in reason else reason
