"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from one_peace.errors import OnePeaceError


class FolderBusyError(OnePeaceError):
    """Somebody else writes to a folder: a library, or the output of bulk work."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which names the process that has it.

    The kernel frees the lock when its process ends, however it ends: a file left by a dead one is taken over.

    Raises:
        FolderBusyError: another process (or another user of the lock in this one) holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise FolderBusyError(f"{path.parent}: process {owner} is writing to it; wait for it to end") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
