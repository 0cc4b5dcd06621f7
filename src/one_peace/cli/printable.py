"""Names of files, and what people wrote beside them, for a terminal."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = ("Cc", "Cs")  # categories: line breaks and what terminals obey; what stands for bytes that are not UTF-8


def printable(text: object) -> str:
    """Text on one line, nothing of which a terminal obeys; such characters as escapes: names may hold anything."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in _NOT_SHOWN else letter
        for letter in str(text)
    )
