"""A folder to write in, beside the place where its files will go."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, removed afterwards if it is still there; so are those of processes that died."""
    prefix = f".{target.name}.saving-"
    for path in target.parent.iterdir():
        if path.name.startswith(prefix):
            _remove_abandoned(path)
    work, lock = _new(target.parent, prefix)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _new(parent: Path, prefix: str) -> tuple[Path, int]:
    """A locked folder; the kernel frees the lock when the process ends, however it ends."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # taken for abandoned before it was locked
            lock = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # some file systems have no locks: abandoned folders stay there
                fcntl.flock(lock, fcntl.LOCK_EX)
            if work.exists():
                return work, lock
            os.close(lock)


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError):  # somebody is writing there, or it is another user's
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        finally:
            os.close(lock)
