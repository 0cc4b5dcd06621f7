from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from one_peace.nn.relative_position import CLS_ROWS, grid_rows
from one_peace.nn.resize import geometric_offsets, resize_bias_table, resize_positions

TABLES = load_file(Path(__file__).parents[1] / "golden" / "one_peace" / "fixture6_tables_16.safetensors")
# PyTorch finds places between positions in float32: those near 16 are off by 1e-6, differently on each kind of CPU.
PLACES = 1e-5


@pytest.mark.parametrize("grid", [18, 24, 28, 30, 32])
def test_published_tables(grid: int) -> None:
    table = resize_bias_table(TABLES["in.rel_pos_table"], grid)
    torch.testing.assert_close(table, TABLES[f"out.rel_pos_table_{grid}"], rtol=0, atol=1e-6)
    positions = resize_positions(TABLES["in.pos_embed"], (grid, grid))
    torch.testing.assert_close(positions, TABLES[f"out.pos_embed_{grid}"], rtol=0, atol=PLACES)


@pytest.mark.parametrize("grid", [12, 14, 24])
def test_published_positions_of_a_forward_pass(grid: int) -> None:
    positions = resize_positions(TABLES["in.pos_embed"], (grid, grid))
    torch.testing.assert_close(positions, TABLES[f"out.runtime_pos_embed_{grid}"], rtol=0, atol=PLACES)


def test_same_grid_changes_nothing() -> None:
    assert resize_bias_table(TABLES["in.rel_pos_table"], 16) is TABLES["in.rel_pos_table"]
    torch.testing.assert_close(resize_positions(TABLES["in.pos_embed"], (16, 16)), TABLES["in.pos_embed"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_cls_rows_and_symmetry(dtype: torch.dtype) -> None:
    table = torch.randn(grid_rows(4), 3).to(dtype)
    resized = resize_bias_table(table, 6)
    assert resized.shape == (grid_rows(6), 3) and resized.dtype == dtype
    assert torch.equal(resized[-CLS_ROWS:], table[-CLS_ROWS:])
    span, new_span = 7, 11
    centre = resized[new_span**2 // 2]
    torch.testing.assert_close(centre, table[span**2 // 2])  # offset (0, 0) keeps its value
    mirrored = torch.cat([table[:-CLS_ROWS].flip(0), table[-CLS_ROWS:]])
    both = torch.cat([resized[:-CLS_ROWS].flip(0), resized[-CLS_ROWS:]])
    torch.testing.assert_close(resize_bias_table(mirrored, 6), both)
    assert resize_positions(torch.randn(17, 8).to(dtype), (5, 3)).dtype == dtype


def test_positions_have_a_gradient_and_may_be_oblong() -> None:
    table = torch.randn(17, 8, requires_grad=True)
    resized = resize_positions(table, (3, 7))
    assert resized.shape == (1 + 3 * 7, 8)
    assert torch.equal(resized[0], table[0])
    resized.sum().backward()
    assert table.grad is not None and bool((table.grad[0] == 1).all())


def test_offsets_grow_geometrically() -> None:
    offsets = geometric_offsets(31, 47)
    assert len(offsets) == 31 and offsets[15] == 0 and offsets[16] == 1
    assert (offsets == -offsets[::-1]).all()
    steps = offsets[17:] - offsets[16:-1]
    assert steps[1:] / steps[:-1] == pytest.approx(steps[0])
    assert offsets[-1] == pytest.approx(23, abs=1e-3)


def test_tables_of_no_grid_are_refused() -> None:
    for rows in (514, 16, 4 + CLS_ROWS):
        with pytest.raises(ValueError, match=f"{rows} rows"):
            resize_bias_table(torch.zeros(rows, 2), 8)
    with pytest.raises(ValueError, match="514 rows"):
        resize_positions(torch.zeros(514, 2), (8, 8))
