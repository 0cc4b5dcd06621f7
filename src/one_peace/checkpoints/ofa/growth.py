"""Tables of a checkpoint that are smaller than a model's, filled up by the published rules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TOKENS = "tokens.weight"
IMAGE_POSITIONS = ("encoder.positions.image.weight", "decoder.positions.image.weight")


def grow_rows(table: Tensor, rows: int, generator: torch.Generator | None = None) -> Tensor:
    """A table (n, width) with new rows at its end, normal with deviation width^-0.5; as it is where it has enough."""
    missing = rows - table.shape[0]
    if missing <= 0:
        return table
    fresh = torch.randn(missing, table.shape[1], generator=generator) * table.shape[1] ** -0.5
    return torch.cat([table, fresh.to(table)])


def fit_tables(
    tensors: Mapping[str, list[Tensor]],
    image_positions: int,
    vocabulary: int,
    generator: torch.Generator | None = None,
) -> dict[str, list[Tensor]]:
    """Native tensors with tables of image positions and tokens grown to so many rows; larger ones stay as they are.

    A token table with exactly one row too many, which is that of a `<mask>` the model does not have, loses it.
    """
    fitted = dict(tensors)
    for name in IMAGE_POSITIONS:
        if name in fitted and fitted[name][0].shape[0] < image_positions:
            fitted[name] = [grow_rows(fitted[name][0], image_positions, generator)]
    if TOKENS in fitted:
        table = fitted[TOKENS][0]
        if table.shape[0] < vocabulary:
            fitted[TOKENS] = [grow_rows(table, vocabulary, generator)]
        elif table.shape[0] == vocabulary + 1:
            fitted[TOKENS] = [table[:-1]]
    return fitted
