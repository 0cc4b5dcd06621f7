"""An update that is passed over changes nothing, statistics of batch norms and their average included."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from one_peace.training.distributed import Processes
from one_peace.training.loop import LoopSettings, Updates
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
