"""A checkpoint's file or folder to write to, beside the place where it will go."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from one_peace.atomic_files import naming, replacing


@contextmanager
def replacing_checkpoint(target: Path) -> Iterator[Path]:
    """As `replacing`, synced to disk. `OSError` names the target where the disk is full."""
    if target.is_dir():
        raise ValueError(f"{target} is a folder; an official checkpoint is one file")
    try:
        with replacing(target) as path:
            yield path
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    except RuntimeError as error:  # of torch.save, in many words
        raise OSError(errno.EIO, "cannot be written; is the disk full?", str(target)) from error


@contextmanager
def work_folder(target: Path, parent: Path | None = None) -> Iterator[Path]:
    """A new folder for what will be `target`, beside it or in `parent`, removed afterwards if it is still there; so are
    those of processes that died.

    `OSError` names the target where the disk is full.
    """
    prefix = f".{target.name}.saving-"
    parent = parent or target.parent
    for path in [*parent.iterdir(), *target.parent.iterdir()]:
        if path.name.startswith(prefix):
            _remove_abandoned(path)
    work, lock = _new(parent, prefix)
    try:
        with naming(target):
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
