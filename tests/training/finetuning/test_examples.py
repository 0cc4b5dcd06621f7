"""Rows that cannot be used: replaced by others, the same ones wherever a run began, as long as there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from one_peace.errors import InputError
from one_peace.tasks.task import BadDraw
from one_peace.training.finetuning.examples import DrawingReader, Examples, NoUsableRows


class Numbers:
    """A table whose rows are their numbers."""

    path, media = Path("numbers.csv"), ()

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def row(self, index: int) -> tuple[str, dict[str, int]]:
        return f"row {index}", {"number": index}


class AllBut:
    """Reads every row but some."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def example(self, row: Any, key: str) -> int:
        if row["number"] in self.bad:
            raise InputError(key, "damaged")
        return row["number"]


class Lottery(DrawingReader[tuple[int, float]]):
    """Four draws in five are for nothing."""

    def draw(self, row: Any, key: str, generator: torch.Generator) -> tuple[int, float]:
        drawn = float(torch.rand((), generator=generator))
        if drawn < 0.8:
            raise BadDraw(key, "is out of luck")
        return row["number"], drawn


@pytest.mark.parametrize(("rows", "bad"), [(3, 2), (6, 3), (10, 7)])
def test_one_good_row_is_enough(rows: int, bad: int) -> None:
    for seed in range(20):
        examples = Examples(Numbers(rows), AllBut(set(range(bad))), seed)  # type: ignore[arg-type]
        assert all(number >= bad for update in range(5) for number in examples.batch(rows, update))
        assert set(examples.unusable) == set(range(bad)), "found in whatever epoch they are met"


def test_what_every_process_left_out_is_told() -> None:
    table: Any = Numbers(8)
    parts = [Examples(table, AllBut({0, 1, 2}), 5) for _ in range(2)]
    for update in range(2):
        for rank, examples in enumerate(parts):
            examples.batch(4, update, rank, 2)
    told = parts[0].summary(lambda own: [examples.unusable for examples in parts])
    assert told is not None and told.startswith("3 rows of numbers.csv left out: row 0: damaged; row 1:")


def test_no_good_row_is_one_message() -> None:
    examples = Examples(Numbers(3), AllBut({0, 1, 2}), 1)  # type: ignore[arg-type]
    with pytest.raises(NoUsableRows, match=r"numbers.csv: nothing usable after \d attempts; the last one: .*damaged"):
        examples.at(0)


def test_an_unlucky_draw_bans_no_row() -> None:
    """What a place holds does not depend on what was drawn before, by this process or by another."""
    whole, resumed = (Examples(Numbers(4), Lottery(), 1) for _ in range(2))  # type: ignore[arg-type]
    drawn = [example for update in range(12) for example in whole.batch(4, update)]
    assert drawn[24:] == [example for update in range(6, 12) for example in resumed.batch(4, update)]
    assert {number for number, _ in drawn} == {0, 1, 2, 3}
    assert len({value for _, value in drawn}) == 48, "every attempt is drawn on its own"
    assert whole.summary() is None
