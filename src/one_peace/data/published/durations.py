"""Lengths of sound files, for tables that group sounds by length."""

from __future__ import annotations

from pathlib import Path


def seconds(path: Path) -> str:
    """Length of a sound with two decimals, "0" for a file that is missing or cannot be read (it is reported later)."""
    import soundfile

    try:
        return f"{soundfile.info(path).duration:.2f}"
    except (OSError, soundfile.LibsndfileError):
        return "0"
