from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from one_peace.nn.relative_position import (
    RelativeBias,
    grid_buckets,
    grid_rows,
    sequence_buckets,
    sequence_rows,
)


@given(buckets=st.sampled_from([8, 64, 256, 512]), positions=st.integers(2, 200))
def test_sequence_buckets_depend_on_the_offset_alone(buckets: int, positions: int) -> None:
    table = sequence_buckets(buckets, positions)[1:, 1:]
    assert torch.equal(table[1:, 1:], table[:-1, :-1])
    assert (table[0, 1:] <= table[0, :-1]).all()  # monotone in the offset
    assert table.min() >= 0 and table.max() < sequence_rows(buckets) - 3


@given(height=st.integers(1, 7), width=st.integers(1, 7))
def test_a_smaller_grid_uses_the_rows_of_the_same_offsets(height: int, width: int) -> None:
    table = grid_buckets(height, width, 8)
    full = grid_buckets(8, 8, 8)
    places = torch.cat([torch.zeros(1, dtype=torch.long), (torch.arange(64).view(8, 8)[:height, :width] + 1).flatten()])
    assert torch.equal(table, full[places][:, places])


@pytest.mark.parametrize("table", [sequence_buckets(16, 12), grid_buckets(3, 4, 4)])
def test_cls_has_rows_of_its_own(table: torch.Tensor) -> None:
    to_tokens, from_tokens, itself = table[0, 1].item(), table[1, 0].item(), table[0, 0].item()
    assert (to_tokens, from_tokens, itself) == (to_tokens, to_tokens + 1, to_tokens + 2)
    assert table[1:, 1:].max() < to_tokens


@pytest.mark.parametrize(("dtype", "positions"), [(torch.float64, 748), (torch.bfloat16, 749)])  # in no other test
def test_the_default_type_moves_no_far_bucket(dtype: torch.dtype, positions: int) -> None:
    torch.set_default_dtype(dtype)
    try:
        found = sequence_buckets(64, positions)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[1:, 1:], sequence_buckets(64, 750)[1:positions, 1:positions])


def test_the_default_device_keeps_no_table() -> None:
    with torch.device("meta"):
        tables = sequence_buckets(10, 33), grid_buckets(2, 5, 6)  # sizes that no other test has
    assert {table.device.type for table in tables} == {"cpu"}


def test_an_export_leaves_no_table_without_values_behind() -> None:
    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + sequence_buckets(10, 31) + grid_buckets(5, 6, 6)  # sizes that no other test has

    x = torch.zeros(1)
    exported = torch.export.export(Sum(), (x,)).module()
    assert type(sequence_buckets(10, 31)) is torch.Tensor
    assert torch.equal(exported(x), Sum()(x))


def test_limits_are_named() -> None:
    with pytest.raises(ValueError, match="1025 positions"):
        sequence_buckets(256, 1025)
    with pytest.raises(ValueError, match="9 x 2 patches"):
        grid_buckets(9, 2, 8)


def test_kept_positions_select_rows_and_columns() -> None:
    bias = RelativeBias(grid_rows(3), heads=2, tables=1)
    with torch.no_grad():
        bias.tables[0].normal_()
    buckets = grid_buckets(3, 3, 3)
    kept = torch.tensor([[0, 2, 5], [0, 1, 9]])
    whole = bias(buckets)[0][0]
    for row, places in enumerate(kept):
        assert torch.equal(bias(buckets, kept)[0][row], whole[:, places][:, :, places])


def test_tables_cached_while_encoding_serve_training() -> None:
    with torch.inference_mode():
        tables = sequence_buckets(64, 77), grid_buckets(3, 5, 7)
    assert not any(table.is_inference() for table in tables)
