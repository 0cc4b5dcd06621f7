"""What the model is asked, word for word as in training (paper, section 3.3); {} is where a text goes. The functions
clean the text too: `InputError` where that leaves no words."""

from __future__ import annotations

from one_peace.errors import InputError
from one_peace.models.ofa.vocabulary import clean_text

DESCRIBE = " what does the image describe?"
LOCATE = ' which region does the text " {} " describe?'
MATCH = ' does the image describe " {} "?'
IMPLY = ' can image and text1 " {} " imply text2 " {} "?'
VERIFY = ' what is the answer to question " {} ". is " {} "?'
NAME_REGION = "  what does the region describe? region:"  # its corners follow
DETECT = " what are the objects in the image?"
DRAW = " what is the complete image? caption: {}"
MIDDLE = " what is the image in the middle part?"
COMPLETE = ' what is the complete text of " "?'  # the text goes in between as tokens

PRETRAINED = (DESCRIBE, LOCATE, MATCH, VERIFY, NAME_REGION, DETECT, DRAW, MIDDLE, COMPLETE)
"""The prompts of pretraining; a question about a picture has none."""

MAX_WORDS = 80  # of a question, phrase or statement
DRAW_WORDS = 64


def locate(phrase: str) -> str:
    """Which part of a picture a phrase means."""
    return LOCATE.format(_words(phrase, MAX_WORDS))


def ask(question: str) -> str:
    """A question about a picture, with its mark."""
    return f" {with_mark(_words(question, MAX_WORDS, caption=False))}"


def with_mark(question: str) -> str:
    """A cleaned question, with a question mark at its end."""
    return question if question.endswith("?") else f"{question}?"


def draw(caption: str) -> str:
    """A picture of what a caption says; of captions only the blanks are cleaned here, as published."""
    return DRAW.format(_some(caption, " ".join(caption.split()[:DRAW_WORDS])))


def _words(text: str, most: int, *, caption: bool = True) -> str:
    return _some(text, clean_text(text, most, caption=caption))


def _some(text: str, words: str) -> str:
    """The words that were left of a text, of which there must be some."""
    if not words:
        raise InputError(repr(text)[:60], "has no words to ask with")
    return words
