"""Batches of similar length: little padding, bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

MAX_PADDING = 0.08  # share of a batch's tokens that may be padding


def batch_by_length(lengths: Sequence[int], max_tokens: int, batch_size: int | None = None) -> list[list[int]]:
    """Indices grouped into batches of similar length, longest first.

    A batch holds at most `max_tokens` tokens after padding (one item at least) and `batch_size` items, and starts
    anew where padding would exceed 8 %. `ValueError` for a `batch_size` that is no whole number from 1 on.
    """
    if batch_size is not None and not (isinstance(batch_size, Integral) and batch_size >= 1):
        raise ValueError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    longest = total = 0
    for index in order:
        count = len(batches[-1]) + 1 if batches else 1
        padded = longest * count
        full = padded > max_tokens or (batch_size is not None and count > batch_size)
        if not batches or full or padded - total - lengths[index] > MAX_PADDING * padded:
            batches.append([])
            longest, total = lengths[index], 0
        batches[-1].append(index)
        total += lengths[index]
    return batches
