"""What the model is asked, word for word as in training (paper, section 3.3)."""

from __future__ import annotations

from one_peace.models.ofa.vocabulary import clean_text

DESCRIBE = " what does the image describe?"
MAX_WORDS = 80  # of a question or phrase
DRAW_WORDS = 64


def locate(phrase: str) -> str:
    """Which part of a picture a phrase means."""
    return f' which region does the text " {clean_text(phrase, MAX_WORDS)} " describe?'


def ask(question: str) -> str:
    """A question about a picture, with its mark."""
    cleaned = clean_text(question, MAX_WORDS, caption=False)
    return f" {cleaned}" if cleaned.endswith("?") else f" {cleaned}?"


def draw(caption: str) -> str:
    """A picture of what a caption says."""
    return f" what is the complete image? caption: {clean_text(caption, DRAW_WORDS)}"
