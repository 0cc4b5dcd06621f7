from __future__ import annotations

import time
from typing import Any

import pytest

from one_peace.search.filters import Condition, Filters, passes
from one_peace.search.records import Entry

ENTRY = Entry("1", "/a/b", "image", "d", 10, 20, caption="Ein \u00c4pfel", tags=("red", "round"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("captoin", "contains", "x"), "no field 'captoin'.*caption"),
        (("size", "is", 3), "no test 'is'"),
        (("size", "prefix", "x"), "cannot be tested by 'prefix'; it takes in, >=, <="),
        (("tags", "has", "dog"), "several values"),
        (("modality", "in", ()), "one or more"),
        (("modality", "in", (3,)), "one or more"),
        (("size", "in", (True,)), "one or more"),
        (("size", "<=", float("nan")), "number"),
        (("size", "<=", 2**63), "number"),
        (("duration", ">=", "3"), "number"),
        (("path", "prefix", "/\udcff"), "text"),
    ],
)
def test_conditions_that_make_no_sense(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Condition(*arguments)


def test_whole_numbers_are_compared_with_whole_numbers() -> None:
    assert Condition("size", ">=", 9.5).value == 10 and Condition("size", "<=", 9.5).value == 9
    assert Condition("duration", ">=", 9.5).value == 9.5


def test_one_of_very_many_is_found_in_no_time() -> None:
    condition = Condition("path", "in", [f"/a/{n}" for n in range(60_000)] + ["/a/b"])
    started = time.process_time()
    assert all(condition.holds(ENTRY) for _ in range(60_000))
    assert time.process_time() - started < 10


def test_named_filters() -> None:
    assert Filters().conditions() == ()
    assert passes(Filters(folder="/a", caption="\u00e4PF", tag=("red", "blue"), min_size=10).conditions(), ENTRY)
    assert not passes(Filters(folder="/a/b").conditions(), ENTRY)  # the file itself is not in it
    assert not passes(Filters(folder="/").conditions() + Filters(max_duration=9.0).conditions(), ENTRY)
    assert not passes(Filters(after=21).conditions(), ENTRY) and passes(
        Filters(after=20, before=20).conditions(), ENTRY
    )
    with pytest.raises(ValueError, match="no value lies between min_size and max_size, which is less"):
        Filters(min_size=3, max_size=2)
    with pytest.raises(ValueError, match="several values"):
        Filters(modality="image")  # type: ignore[arg-type]
