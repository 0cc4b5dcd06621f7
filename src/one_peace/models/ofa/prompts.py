"""What the model is asked, word for word as in training (paper, section 3.3). `InputError` where cleaning leaves no
words."""

from __future__ import annotations

from one_peace.errors import InputError
from one_peace.models.ofa.vocabulary import clean_text

DESCRIBE = " what does the image describe?"
MAX_WORDS = 80  # of a question or phrase
DRAW_WORDS = 64


def locate(phrase: str) -> str:
    """Which part of a picture a phrase means."""
    return f' which region does the text " {_words(phrase, MAX_WORDS)} " describe?'


def ask(question: str) -> str:
    """A question about a picture, with its mark."""
    cleaned = _words(question, MAX_WORDS, caption=False)
    return f" {cleaned}" if cleaned.endswith("?") else f" {cleaned}?"


def draw(caption: str) -> str:
    """A picture of what a caption says."""
    return f" what is the complete image? caption: {_words(caption, DRAW_WORDS)}"


def _words(text: str, most: int, *, caption: bool = True) -> str:
    cleaned = clean_text(text, most, caption=caption)
    if not cleaned:
        raise InputError(repr(text)[:60], "has no words to ask with")
    return cleaned
