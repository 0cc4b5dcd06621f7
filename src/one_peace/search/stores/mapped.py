"""An array that grows and need not fit into memory."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

_FIRST = 1024  # rows that there is room for from the start


class MappedArray:
    """Rows (n, width) of `dtype` in a nameless temporary file in `folder`, mapped into memory.

    The system keeps in memory what is used, as far as there is room, and the file ends with the process. On a full
    disk the array moves into memory. Rows are appended and never change, so that `rows` stays right for whoever
    holds it while others append.
    """

    def __init__(self, width: int, dtype: DTypeLike, folder: Path | None = None) -> None:
        self._width, self._dtype = width, np.dtype(dtype)
        self._n = 0
        self._map = np.empty((0, width), self._dtype)
        self._file: IO[bytes] | None = None
        with suppress(OSError):  # not a byte of room
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed with this object)

    @property
    def rows(self) -> np.ndarray:
        """(n, width), not a copy, not to be written to."""
        return self._map[: self._n]

    def append(self, rows: np.ndarray) -> None:
        """Adds (m, width)."""
        if not len(rows):
            return
        end = self._n + len(rows)
        capacity = max(end, 2 * len(self._map), _FIRST) if end > len(self._map) else len(self._map)
        try:
            self._to_file(rows, capacity)
        except OSError:
            self._to_memory(rows, capacity)
        self._n = end

    def _to_file(self, rows: np.ndarray, capacity: int) -> None:
        if self._file is None:
            raise OSError("left already")
        if capacity > len(self._map):
            self._file.truncate(capacity * self._width * self._dtype.itemsize)  # takes no room yet
            self._map = np.memmap(self._file, self._dtype, "r+", shape=(capacity, self._width)).view(np.ndarray)
        # Not through the map: to fill a page of a full disk there ends the process.
        data = np.ascontiguousarray(rows, self._dtype).data.cast("B")
        offset = self._n * self._width * self._dtype.itemsize
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def _to_memory(self, rows: np.ndarray, capacity: int) -> None:
        if self._file is not None or capacity > len(self._map):
            grown = np.empty((capacity, self._width), self._dtype)
            grown[: self._n] = self._map[: self._n]
            self._map, self._file = grown, None
        self._map[self._n : self._n + len(rows)] = rows
