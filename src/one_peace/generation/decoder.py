"""What generation asks of a model: next-token logits for a set of rows, and rows that can be rearranged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """A decoder in the middle of its sequences, with whatever it keeps of the tokens so far (keys and values).

    It begins with one row per input and no tokens. All rows have the same number of tokens at any time; what an input
    is (encoder states, their mask) is the decoder's own affair and is kept once per input, not once per row.
    """

    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (rows, new) int64, new >= 1, and gives the logits of the token after them.

        Returns:
            (rows, vocabulary), in a tensor of the caller's own, who may write to it.
        """
        ...

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes a copy of the present row `rows[i]`; rows (new rows,) int64 may repeat, drop and permute.

        Rows of one input always stand together, inputs in order. Beam search and sampling keep the number of rows the
        same for all inputs that are left; scoring of candidates does not.
        """
        ...


def by_length(starts: Sequence[Sequence[int]], device: torch.device) -> Iterator[tuple[list[int], Tensor]]:
    """Rows that begin with equally many tokens, with these (rows, length) int64: one decoder takes no others."""
    for length in sorted({len(start) for start in starts}):
        rows = [row for row, start in enumerate(starts) if len(start) == length]
        yield rows, torch.tensor([list(starts[row]) for row in rows], device=device)
