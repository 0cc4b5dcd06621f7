"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from one_peace.errors import OnePeaceError


class LibraryBusyError(OnePeaceError):
    """Somebody else writes to the library."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which names the process that has it.

    The kernel frees the lock when its process ends, however it ends: a file left by a dead one is taken over.

    Raises:
        LibraryBusyError: another process (or another `Library` of this one) holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise LibraryBusyError(
                f"{path.parent}: process {owner} is writing to this library; wait for it to end"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
