"""Files that others see whole or not at all: written beside their place, and then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `target` when all went well and is removed when not.

    It survives a killed process. What must survive a power cut as well is to be synced to disk by who writes it.
    Several threads, processes and machines may write the same target: the last one wins. `OSError` names the target
    where the system names no file, as for a full disk.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with naming(target):
            yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes) -> None:
    """Writes a file in one step."""
    with replacing(target) as partial:
        partial.write_bytes(content)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Gives errors of writing the name that the user knows; those of an open file have none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
