from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.search.filters import Condition, passes
from one_peace.search.records import Entry
from one_peace.search.stores.snapshot import Rows, Snapshot

DIM = 5
SMALL = (Condition("size", "<=", 1),)


class Table:
    """What a store holds: entries, revisions and vectors by id."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Entry, int, np.ndarray]] = {}
        self.fetched = 0

    def fetch(self, ids: Sequence[str] | None) -> Rows:
        rows = [row for id_, row in self.rows.items() if ids is None or id_ in ids]
        self.fetched += len(rows)
        for i in range(0, len(rows), 2):
            entries, revisions, vectors = zip(*rows[i : i + 2], strict=True)
            yield entries, revisions, np.stack(vectors)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["put", "put", "remove"])), max_size=6), max_size=12
    ),
    seed=st.integers(0, 1000),
)
def test_it_follows_the_store(steps: list[list[tuple[int, str]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, snapshot = Table(), Snapshot(DIM)
    for step in steps:
        for number, action in step:
            table.rows.pop(str(number), None)
            if action == "put":
                entry = Entry(str(number), f"/{number}", "image", "d", int(rng.integers(0, 4)), 0)
                vector = np.round(rng.standard_normal(DIM)).astype(np.float32)  # full of ties
                table.rows[str(number)] = (entry, int(rng.integers(2**62)), vector)
        snapshot.refresh({id_: row[1] for id_, row in table.rows.items()}, table.fetch)
        assert len(snapshot) == len(table.rows)
        query = np.round(rng.standard_normal((1, DIM))).astype(np.float32)
        for where in ((), SMALL):
            expected = sorted(
                (-float(vector @ query[0]), id_)
                for id_, (entry, _, vector) in table.rows.items()
                if passes(where, entry)
            )
            for k in (1, 4, 100):
                hits = snapshot.search(query, k, where)[0]
                assert [(-hit.score, hit.id) for hit in hits] == expected[:k]


def test_only_what_has_changed_is_fetched() -> None:
    table, snapshot = Table(), Snapshot(DIM)
    for n in range(100):
        table.rows[str(n)] = (Entry(str(n), "/", "image", "d", 0, 0), 1, np.ones(DIM, np.float32))
    for expected in (100, 103, 103):
        snapshot.refresh({id_: row[1] for id_, row in table.rows.items()}, table.fetch)
        assert table.fetched == expected
        if expected == 100:
            for n in range(3):
                entry, _, vector = table.rows[str(n)]
                table.rows[str(n)] = (entry, 2, vector)


def test_a_refresh_that_failed_is_made_up_for() -> None:
    table, snapshot = Table(), Snapshot(DIM)
    for n in range(10):
        table.rows[str(n)] = (Entry(str(n), "/", "image", "d", n % 3, 0), 1, np.ones(DIM, np.float32))
    revisions = {id_: row[1] for id_, row in table.rows.items()}

    def broken(ids: Sequence[str] | None) -> Rows:
        yield next(iter(table.fetch(ids)))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        snapshot.refresh(revisions, broken)
    assert snapshot.search(np.ones((1, DIM), np.float32), 20, SMALL) == [[]]
    snapshot.refresh(revisions, table.fetch)
    assert len(snapshot.search(np.ones((1, DIM), np.float32), 20, SMALL)[0]) == 7
