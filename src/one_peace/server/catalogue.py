"""Which items the library has, and how many of each modality: of a large one that takes seconds to find out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from one_peace.search.library import Library
from one_peace.search.manifest import LibraryError
from one_peace.search.records import Item

Found = TypeVar("Found")

_SECONDS = 60.0  # after which it is looked up again whatever is known


class Catalogue:
    """Keeps both from one request to the next. `changes` counts what this process wrote.

    What other processes add and remove shows at once, by the number of rows; a file that they rename stands in its old
    place for up to a minute. Of an item the id alone is kept: memory grows by some tens of bytes with each.
    """

    def __init__(self, library: Library, changes: Callable[[], int]) -> None:
        self._library, self._changes = library, changes
        self._statistics = _Kept(self._state, library.statistics)
        self._ids = _Kept(self._state, lambda: [item.id for item in library.items()])

    def statistics(self) -> dict[str, int]:
        """Number of items by modality."""
        return self._statistics.latest()

    def page(self, start: int, count: int) -> tuple[list[Item], int]:
        """Items from number `start` on, `count` of them, as ordered by path; and how many there are."""
        ids = self._ids.latest()
        shown = ids[start : start + count]
        rows = self._library.store.rows(shown) if shown else {}
        return [Item.of(rows[id].entry) for id in shown if id in rows], len(ids)

    def _state(self) -> tuple[int, int]:
        try:
            rows = self._library.store.count()
        except LibraryError:  # nothing has been indexed yet
            rows = 0
        return self._changes(), rows


class _Kept(Generic[Found]):
    """What `look` finds, kept until `state` changes."""

    def __init__(self, state: Callable[[], object], look: Callable[[], Found]) -> None:
        self._current, self._look = state, look
        self._lock = threading.Lock()
        self._kept: tuple[object, float, Found] | None = None

    def latest(self) -> Found:
        """The current value; of several threads one finds it out and the others wait."""
        with self._lock:
            state, now = self._current(), time.monotonic()
            if self._kept is None or self._kept[0] != state or now - self._kept[1] > _SECONDS:
                self._kept = (state, now, self._look())
            return self._kept[2]
