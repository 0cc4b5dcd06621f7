"""What lessons ahead of a run learn from at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from one_peace.modalities.base import Example, Processor

SPREAD = 6  # frames that the lengths in a batch may differ by chance, beyond what is unavoidable


def collated(processor: Processor, examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
    """Examples of one modality as a batch on the device."""
    return {name: value.to(device) for name, value in processor.collate(examples).items()}


def batches_of_like_length(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of `size` (all, if there are fewer) positions: of nearly the same length, in random order."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(lengths))
    while True:
        key = torch.tensor(lengths) + SPREAD * torch.rand(len(lengths), generator=generator)
        first = int(torch.randint(len(lengths) % size + 1, (), generator=generator))
        whole = key.argsort()[first : first + len(lengths) // size * size].view(-1, size)
        yield from whole[torch.randperm(len(whole), generator=generator)].tolist()
