"""Trackers: where the figures of a run go besides its log. One small interface, three well-known packages behind it."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from one_peace.errors import MissingExtraError

PROJECT = "one-peace"
RUN_ID = "tracker-id"  # a file in the run folder: under which name a service knows the run


log = logging.getLogger("one_peace.training")


class Tracker(Protocol):
    """Takes figures by step. A run that continues after a crash may report some steps again: the later figures
    count."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, all finite."""

    def close(self) -> None:
        """Writes out what is still in memory."""


class TensorBoardTracker:
    """Event files in `tensorboard/` of the run folder, for `tensorboard --logdir`."""

    def __init__(self, out: Path, recipe: Mapping[str, Any], first: int) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self.event, self.summary = Event, Summary
        folder = out / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{socket.gethostname()}.{os.getpid()}"
        # Its own writer has a thread, whose errors nobody can catch.
        self.file = open(folder / name, "ab", buffering=0)  # noqa: SIM115
        self.records = RecordWriter(self.file)
        self._write(0, file_version="brain.Event:2")
        # What an interrupted run wrote after its last state is hidden, as in the log.
        self._write(first + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        shown = {_grouped(name).replace("@", "_at_"): value for name, value in values.items()}  # which allows no @
        self._write(
            step,
            summary=self.summary(
                value=[self.summary.Value(tag=name, simple_value=value) for name, value in shown.items()]
            ),
        )

    def close(self) -> None:
        self.file.close()

    def _write(self, step: int, **what: Any) -> None:
        self.records.write(self.event(wall_time=time.time(), step=step, **what).SerializeToString())


class WandbTracker:
    """Weights & Biases; its own variables (`WANDB_MODE=offline`, `WANDB_PROJECT`, ...) hold."""

    def __init__(self, out: Path, recipe: Mapping[str, Any], first: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self.run = wandb.init(
            project=_project("WANDB_PROJECT"),
            name=out.resolve().name,
            id=_run_id(out),
            resume="allow",
            dir=str(out),
            config=dict(recipe),
        )
        # Steps of its own only grow; ours come again after a crash.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step} | {_grouped(name): value for name, value in values.items()})

    def close(self) -> None:
        self.run.finish()


class TrackioTracker:
    """Trackio, which keeps runs on this machine unless its own variables (`TRACKIO_SPACE_ID`, ...) say otherwise."""

    def __init__(self, out: Path, recipe: Mapping[str, Any], first: int) -> None:
        try:
            import trackio
        except ImportError as error:
            raise _missing("trackio") from error
        name = f"{out.resolve().name}-{_run_id(out)}"
        project = _project("TRACKIO_PROJECT")
        self.run = trackio.init(project, name=name, config=dict(recipe), resume="allow", embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({_grouped(name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}


def known_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The `trackers` of a recipe. `ValueError` for one that there is not."""
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(f"trackers: unknown {unknown[0]!r}; a list of some of {', '.join(TRACKERS)}")
    return tuple(names)


def require_trackers(names: Sequence[str]) -> None:
    """Raises `MissingExtraError` for the first tracker whose package is not installed, without importing any."""
    for name in names:
        if find_spec(name) is None:
            raise _missing(name)


@contextmanager
def open_trackers(names: Sequence[str], out: Path, recipe: Mapping[str, Any], first: int) -> Iterator[list[Tracker]]:
    """The trackers of a run that goes on after step `first`; they are closed at the end, also of a run that fails.

    One that cannot write, as on a full disk, is named in a warning and left out from then on: the run goes on.

    Raises:
        MissingExtraError: a tracker's package is not installed.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        for name in names:
            try:
                tracker = TRACKERS[name](out, recipe, first)
            except OSError as error:
                _warn(name, error)
                continue
            trackers.append(_Dispensable(name, tracker))
            stack.callback(trackers[-1].close)
        yield trackers


class _Dispensable:
    """A tracker without which the run goes on when it fails; its package may raise anything."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self.name, self.tracker, self.failed = name, tracker, False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if not self.failed:
            self._try(partial(self.tracker.log, step, values))

    def close(self) -> None:
        self._try(self.tracker.close)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not self.failed:
                _warn(self.name, error)
            self.failed = True


def _warn(name: str, error: Exception) -> None:
    log.warning("trackers: %s failed (%s); the run goes on without it", name, error)


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(f"trackers: {name}", "train" if name == "tensorboard" else name)


def _grouped(name: str) -> str:
    """`train/` before figures of training, so that viewers show them apart from `eval/`."""
    return name if "/" in name else f"train/{name}"


def _project(variable: str) -> str:
    return os.environ.get(variable) or PROJECT


def _run_id(out: Path) -> str:
    path = out / RUN_ID
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12] + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
