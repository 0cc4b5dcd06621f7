"""Files that are computed once and kept: written by one process, seen by the others only when whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def built_once(path: Path, build: Callable[[Path], None]) -> Path:
    """`path`, written by `build(partial)` if it is not there; of several processes one builds and the others wait."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            try:
                build(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    finally:
        os.close(lock)
    return path
