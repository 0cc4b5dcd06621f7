"""`best/` in a run folder: the model of the best evaluation so far, in our own format, and `evaluation.json` in it.

A better one is written beside and then takes its place by renaming, so that its files are always of one step. If
the process dies between the two renames, the next start of the run puts back what was there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from one_peace.checkpoints.native import write_json
from one_peace.checkpoints.replacing import work_folder
from one_peace.errors import CheckpointError
from one_peace.training.distributed import Processes

BEST = "best"
RECORD = "evaluation.json"


def copy_best(out: Path, model: Path) -> None:
    """Makes `best/` of a run folder also the folder `model`, which is swapped for the one there when it is whole.

    Raises:
        CheckpointError: it cannot be written; the one there stays.
    """
    try:
        with work_folder(model) as work:
            shutil.copytree(out / BEST, work / "new")
            if model.exists():
                model.rename(work / "old")
            (work / "new").rename(model)
    except OSError as error:
        # of several files: (from, to, why) of each
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        what = f"{model}: cannot be written ({why}); the best model is in {out / BEST}"
        raise CheckpointError(f"{what}. Make room and run the same command again") from error


class BestModel:
    """Keeps the model with the highest value of the figure `by`. `save(folder)` writes the current model; `judged_on`
    are the settings that the figures depend on, which a run may change when it goes on.

    Every process has its own instance and makes the same calls; the first one moves files. `value` and `step` are those
    of the kept model, minus infinity and 0 when there is none.
    """

    def __init__(
        self,
        out: Path,
        by: str,
        save: Callable[[Path], Any],
        processes: Processes,
        judged_on: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.by, self.save, self.processes = out / BEST, by, save, processes
        self.judged_on = json.loads(json.dumps(dict(judged_on or {})))  # as it is recorded
        self.value, self.step = -math.inf, 0
        self._new, self._old = out / f".{BEST}-new", out / f".{BEST}-old"
        if processes.first:
            self._clean()
        processes.wait()

    def restore(self, value: float, step: float) -> None:
        """Takes over the best value and step of a saved state, if the folder is still there and was chosen by the same
        figure of the same data: what is easy to reach on others would keep all later models out."""
        record = self._recorded()
        same = record.get("best_by") == self.by and record.get("judged_on", self.judged_on) == self.judged_on
        if self.processes.share(same):
            self.value, self.step = value, int(step)

    def offer(self, step: int, figures: Mapping[str, float]) -> str | None:
        """Keeps the current model if its figures are better -> the problem, if it could not be written.

        A figure that is not finite is never better. After a failure the previous one is still there.
        """
        value = figures[self.by]
        if not self.processes.share(math.isfinite(value) and value > self.value):
            return None
        problem: str | None = None
        try:
            self.save(self._new)
            if self.processes.first:
                judged_on = {"judged_on": self.judged_on} if self.judged_on else {}
                self._publish({"step": step, "best_by": self.by, **figures, **judged_on})
        except OSError as error:  # by the first process, the only one that writes
            problem = f"the best model, of step {step}, could not be saved ({error})"
            problem += f"; that of step {self.step} is kept" if self.step else "; there is none before it"
            self._clean()
        problem = self.processes.share(problem)
        if problem is None:
            self.value, self.step = value, step
        return problem

    def _publish(self, record: Mapping[str, Any]) -> None:
        write_json(self._new / RECORD, record)
        if self.folder.exists():
            self.folder.rename(self._old)
        self._new.rename(self.folder)
        shutil.rmtree(self._old, ignore_errors=True)

    def _recorded(self) -> dict[str, Any]:
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _clean(self) -> None:
        if self._old.exists() and not self.folder.exists():
            self._old.rename(self.folder)
        # what a save writes before it has a name starts with that name
        for left in (self._new, self._old, *self.folder.parent.glob(f".{self._new.name}.*")):
            shutil.rmtree(left, ignore_errors=True)
