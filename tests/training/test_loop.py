"""The loop of all training: updates that are passed over, and rows of the log across an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from one_peace.training.distributed import Processes
from one_peace.training.loop import LoopSettings, Updates, run_updates
from one_peace.training.recipe import OptimizerRecipe


def test_a_poisoned_batch_leaves_no_trace_in_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    def gradients(step: int) -> dict[str, Tensor]:
        batch = torch.randn(4, 2)
        total = model(batch if step != 1 else batch / 0).square().sum()
        total.backward()
        return {"total": total}

    settings = LoopSettings(3, OptimizerRecipe(ema_decay=0.5), 1, 1)
    updates = Updates(model, settings, gradients, Processes())
    updates.take(0, str)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    updates.take(1, str)
    assert updates.skipped == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    updates.take(2, str)
    assert updates.average is not None
    assert all(value.isfinite().all() for value in (*model.state_dict().values(), *updates.average.averages.values()))
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])


def test_a_row_after_an_interruption_has_the_losses_from_before_it(tmp_path: Path) -> None:
    """Some losses are of every fourth update only, and a run may go on from a state between it and the row."""

    def run(out: Path, stop_at: int = 0) -> list[dict[str, Any]]:
        model = nn.Linear(2, 1, bias=False)
        nn.init.ones_(model.weight)

        def gradients(step: int) -> dict[str, Tensor]:
            total = model(torch.full((1, 2), step + 1.0)).square().sum()
            total.backward()
            return {"total": total, "count": torch.tensor(2.0)} | ({"rare": total / 3} if step % 4 == 0 else {})

        def tick(done: int) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        settings = LoopSettings(8, OptimizerRecipe(), log_every=4, save_every=3, counts=("count",))
        run_updates(model, settings, gradients, out, Processes(), tick=tick)
        return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]

    whole = run(tmp_path / "whole")
    for stop_at in (4, 7):  # the states are those of 3 and 6 updates, which end no row
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "halves", stop_at)
    assert run(tmp_path / "halves") == whole
    assert all({"total", "rare", "count"} <= set(row) for row in whole)
