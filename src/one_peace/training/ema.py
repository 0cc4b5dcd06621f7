"""An exponential moving average of the trained weights.

The published code copies the weights instead of averaging them, which its recipes never notice: none uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


class WeightAverage:
    """Averages of named parameters: `decay` of the average and `1 - decay` of the new weights, at every update.

    Until update `start` the average follows the weights, so that it does not remember where they began.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float, start: int = 0) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema decay must be in [0, 1), got {decay}")
        self.decay, self.start = decay, start
        self._parameters = dict(parameters)
        self.averages: Mapping[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Takes in the weights after the update number `updates`, which counts from 1."""
        for name, parameter in self._parameters.items():
            if updates <= self.start:
                self.averages[name].copy_(parameter)
            else:
                self.averages[name].lerp_(parameter.detach(), 1.0 - self.decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Sets the average to the weights."""
        for name, parameter in self._parameters.items():
            self.averages[name].copy_(parameter)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the weights and their averages, exactly; doing it twice changes nothing."""
        for name, parameter in self._parameters.items():
            weights = parameter.clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(weights)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Puts the averages in place of the weights."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.averages[name])


@contextmanager
def measured(module: nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """What a run trains, as it is to be measured: without dropout, with averaged weights if there are such."""
    module.eval()
    if average is not None:
        average.swap()
    try:
        yield
    finally:
        if isinstance(module, FSDPModule):
            module.reshard()  # as an update leaves it: what was gathered is of weights that change now
        if average is not None:
            average.swap()
        module.train()
