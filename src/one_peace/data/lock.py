"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from one_peace.errors import OnePeaceError

_held: set[int] = set()  # descriptors
_PAUSE = 0.01  # seconds between two looks at a lock


class FolderBusyError(OnePeaceError):
    """Somebody else writes to a folder: a library, or the output of bulk work."""


@contextmanager
def writer_lock(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock file `path`, which names the process that has it; waits `patience` seconds for it, if it must.

    The kernel frees the lock when its process ends, however it ends: a file left by a dead one is taken over. Processes
    forked meanwhile, such as data workers that outlive a killed run for some seconds, have no part in it.

    Raises:
        FolderBusyError: another process (or another user of the lock in this one) holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _held.add(descriptor)
    try:
        give_up = time.monotonic() + patience
        while not _taken(descriptor):
            if time.monotonic() >= give_up:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise FolderBusyError(f"{path.parent}: process {owner} is writing to it; wait for it to end")
            time.sleep(_PAUSE)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
