"""Sources mixed by weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.data.mixture import CYCLE, Mixture, interleave
from one_peace.data.source import ConcatenatedSource, RawPair


class Numbers:
    """A source of numbered pairs."""

    def __init__(self, name: str, count: int, blocks: int = 0) -> None:
        self.name, self.sized_by_block = name, blocks > 0
        self.blocks = np.linspace(0, count, max(1, blocks) + 1).astype(np.int64)

    def __len__(self) -> int:
        return int(self.blocks[-1])

    def read(self, index: int) -> RawPair:
        return RawPair(f"{self.name} {index}", str(index), Path())

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([indices, -indices], axis=1)


def test_weights_hold_exactly_over_a_cycle_and_nearly_in_every_batch() -> None:
    mixture = Mixture([Numbers("a", 50), Numbers("b", 5000), Numbers("c", 7)], 1, {"a": 5, "b": 3, "c": 2})
    sources = mixture.slots(12_345, 10 * CYCLE).source
    for start in range(0, len(sources) - CYCLE, 777):
        assert np.bincount(sources[start : start + CYCLE]).tolist() == [500, 300, 200]
    for start in range(0, len(sources) - 40, 40):
        assert np.abs(np.bincount(sources[start : start + 40], minlength=3) - [20, 12, 8]).max() <= 1


@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12))
@settings(max_examples=20)
def test_any_weights_fill_the_cycle(weights: list[float]) -> None:
    names = [str(n) for n in range(len(weights))]
    mixture = Mixture([Numbers(n, 3) for n in names], 1, dict(zip(names, weights, strict=True)))
    assert mixture.shares.sum() == CYCLE and mixture.shares.min() >= 1
    wanted = np.array(weights) / sum(weights) * CYCLE
    assert np.abs(mixture.shares - wanted)[wanted > len(weights) + 1].max(initial=0) <= len(weights)
    assert np.bincount(interleave(mixture.shares)).tolist() == mixture.shares.tolist()


def test_without_weights_every_pair_comes_equally_often() -> None:
    mixture = Mixture([Numbers("a", 300), Numbers("b", 100)], 1)
    slots = mixture.slots(0, 400)
    for number, length in ((0, 300), (1, 100)):
        assert sorted(slots.index[slots.source == number]) == list(range(length))


def test_a_slot_depends_on_its_number_and_the_seed_alone() -> None:
    sources = [Numbers("a", 50), Numbers("b", 33)]
    whole = Mixture(sources, 1).slots(0, 3000)
    part = Mixture(sources, 1).slots(1700, 200)
    assert np.array_equal(whole.index[1700:1900], part.index) and np.array_equal(whole.source[1700:1900], part.source)
    assert (Mixture(sources, 2).slots(0, 3000).index == whole.index).mean() < 0.1


def test_each_source_goes_through_its_own_epochs() -> None:
    mixture = Mixture([Numbers("a", 10), Numbers("b", 1000)], 1, {"a": 0.5, "b": 0.5})
    slots = mixture.slots(0, 2000)
    assert np.bincount(slots.index[slots.source == 0]).tolist() == [100] * 10
    assert sorted(slots.index[slots.source == 1]) == list(range(1000))


def test_sizes_come_from_the_right_source() -> None:
    mixture = Mixture([Numbers("a", 10), Numbers("b", 1000)], 1)
    slots = mixture.slots(0, 64)
    assert np.array_equal(mixture.sizes(slots), np.stack([slots.index, -slots.index], axis=1))


def test_sources_of_which_all_is_known_are_one_part_and_others_a_part_for_each_block() -> None:
    mixture = Mixture([Numbers("a", 10), Numbers("b", 9, 3), Numbers("c", 5), Numbers("d", 8, 2)], 1)
    slots = mixture.slots(0, 500)
    of_each = np.stack([np.full(500, -1), slots.index // 3, np.full(500, -1), 3 + slots.index // 4])
    assert np.array_equal(mixture.parts(slots), of_each[slots.source, np.arange(500)])


def test_several_files_are_one_source() -> None:
    together = ConcatenatedSource("all", [Numbers("a", 3), Numbers("b", 4)])
    assert [together.read(n).key for n in range(7)] == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2", "b 3"]
    assert together.blocks.tolist() == [0, 3, 7]
    assert together.sizes(np.array([6, 0, 3]))[:, 0].tolist() == [3, 0, 0]


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        ([], None, "no data sources"),
        ([Numbers("a", 1), Numbers("a", 2)], None, "same name"),
        ([Numbers("a", 1), Numbers("b", 0)], None, "without a single pair: b"),
        ([Numbers("a", 1)], {"a": 1.0, "c": 1.0}, "a weight for c, but the data sources are a"),
        ([Numbers("a", 1), Numbers("b", 1)], {"a": 1.0}, "positive weight; missing or wrong: b"),
        ([Numbers("a", 1), Numbers("b", 1)], {"a": 1.0, "b": -1.0}, "positive weight; missing or wrong: b"),
    ],
)
def test_wrong_mixtures(sources: list[Numbers], weights: dict[str, float] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources, 1, weights)
