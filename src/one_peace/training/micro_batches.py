"""Where a micro-batch stands in the global batch, and the seed that it has for it.

With a seed by its place a micro-batch draws the same, whichever process computes it and however often.
"""

from __future__ import annotations

from one_peace.training.distributed import Processes

_SLOT = 1_000_000_007  # between the seeds of neighbours, which those of other updates do not reach


def slot_of(index: int, local: int, micro: int, processes: Processes) -> int:
    """The number in the global batch of a process's micro-batch `index`, of `micro` of its `local` examples."""
    return processes.rank * (local // micro) + index


def slot_seed(seed: int, step: int, slot: int) -> int:
    """The seed of a micro-batch in update `step`, for what it draws at random: drop path, masks, noise."""
    return seed + step + slot * _SLOT
