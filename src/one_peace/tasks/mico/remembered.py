"""A processor for a source of few files: each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.base import Example, Processor


class Remembered(Processor):
    """Keeps what another processor loads, so that decoding an animation is paid for in the first epoch alone.

    It holds everything: some 20 to 200 kB a file, which is for the sample library and not for shards.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor, self.loaded = processor, dict[Any, Any]()

    def __call__(self, source: Any) -> Example:
        return self.processor(source)

    def load(self, source: Any) -> Any:
        if source not in self.loaded:
            self.loaded[source] = self.processor.load(source)
        return self.loaded[source]

    def vary(self, loaded: Any, generator: torch.Generator, strength: float) -> Example:
        return self.processor.vary(loaded, generator, strength)

    def length(self, example: Example) -> int:
        return self.processor.length(example)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return self.processor.collate(examples)

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        return self.processor.mask(example, ratio, generator, avoid)
