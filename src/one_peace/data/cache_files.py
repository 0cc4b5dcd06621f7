"""Files that are computed once and kept: written by one process, seen by the others only when whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from one_peace.atomic_files import replacing


def built_once(path: Path, build: Callable[[Path], None]) -> Path:
    """`path`, written by `build(partial)` if it is not there; of several processes one builds and the others wait."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with replacing(path) as partial:
                build(partial)
    finally:
        os.close(lock)
    return path
