"""Texts in files that are named on the command line."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """What a file says, without a byte-order mark. `InputError` names one that cannot be read or is not UTF-8."""
    from one_peace.errors import InputError

    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text") from error
    except OSError as error:
        raise InputError(str(path), f"cannot be read: {error.strerror}") from error
