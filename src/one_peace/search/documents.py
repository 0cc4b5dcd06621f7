"""Texts, Markdown and HTML: their words without markup, cut into passages that a model reads whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path

from one_peace.errors import InputError
from one_peace.media.sources import describe, looks_like_text

LONGEST_PASSAGE = 280
"""Characters; the text branch reads 70 tokens, about as many characters as this in English."""

MOST_PASSAGES = 1000
_MOST_BYTES = 16 << 20
_HEAD = 8_000  # bytes that tell text from other things

_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s+|\n+")
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")


def passages_of(path: Path) -> list[str]:
    """The passages of a document in reading order, at most `MOST_PASSAGES`; a short text is one, as it stands.

    Raises:
        InputError: not UTF-8 text, too large, or without words.
        OSError: unreadable.
    """
    text = _read(path)
    if path.suffix.lower() in (".html", ".htm"):
        blocks = _html_blocks(text)
    elif path.suffix.lower() in (".md", ".markdown") and len(text) > LONGEST_PASSAGE:
        blocks = _markdown_blocks(text)
    elif len(text) > LONGEST_PASSAGE:
        blocks = _BLANK_LINE.split(text)
    else:
        return [text]
    passages = list(islice(_gather(blocks), MOST_PASSAGES))
    if not passages:
        raise InputError(describe(path), "holds no text")
    return passages


def _read(path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(describe(path), f"is a text of more than {_MOST_BYTES >> 20} MiB; split it first")
    if not looks_like_text(data[:_HEAD]):
        raise InputError(describe(path), "is not UTF-8 text")
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n").strip()
    if not text:
        raise InputError(describe(path), "holds no text")
    return text


def _gather(blocks: Iterable[str]) -> Iterator[str]:
    """Joins short blocks and splits long ones, at ends of sentences where there are any."""
    waiting = ""
    for piece in (piece for block in blocks for piece in _pieces(block)):
        joined = f"{waiting} {piece}" if waiting else piece
        if len(joined) <= LONGEST_PASSAGE:
            waiting = joined
            continue
        if waiting:
            yield waiting
        waiting = piece
    if waiting:
        yield waiting


def _pieces(block: str) -> Iterator[str]:
    """Sentences; one that is too long by words, a word that is too long by characters."""
    for sentence in _SENTENCE_END.split(block):
        taken: list[str] = []
        length = 0
        for word in sentence.split():
            if taken and length + len(word) > LONGEST_PASSAGE:
                yield " ".join(taken)
                taken, length = [], 0
            last = (len(word) - 1) // LONGEST_PASSAGE * LONGEST_PASSAGE  # above 0 in scripts without spaces
            for start in range(0, last, LONGEST_PASSAGE):
                yield word[start : start + LONGEST_PASSAGE]
            taken.append(word[last:])
            length += len(word) - last + 1
        if taken:
            yield " ".join(taken)


def _markdown_blocks(text: str) -> list[str]:
    """What is read of each paragraph, heading, list item and table cell; code as it stands, front matter left out."""
    from markdown_it import MarkdownIt

    text = re.sub(r"\A---\n.*?\n---(\n|\Z)", "", text, flags=re.DOTALL)
    blocks = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline":
            words = (" " if c.type in ("softbreak", "hardbreak") else c.content for c in token.children or [])
            blocks.append("".join(words))
        elif token.type in ("fence", "code_block"):
            blocks.append(token.content)
        elif token.type == "html_block":
            blocks += _html_blocks(token.content)
    return blocks


def _html_blocks(text: str) -> list[str]:
    page = _Page()
    page.feed(text)
    page.close()
    return page.blocks()


class _Page(HTMLParser):
    """Collects the words that a browser shows, and the title."""

    _UNSEEN = frozenset(("script", "style", "template", "noscript", "svg", "math", "iframe", "object"))
    _INLINE = frozenset(
        ("a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "dfn", "em", "font", "i", "img", "ins", "kbd")
        + ("label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "u", "var", "wbr")
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[list[str]] = [[]]  # the parts of each
        self._unseen = 0  # depth inside elements that are not shown

    # As in browsers, what does not end takes all that follows. The base class takes its first sign for text and tries
    # again from the next one, which in a file of such signs never comes to an end.
    def parse_starttag(self, i: int) -> int:
        return self._end(super().parse_starttag(i))

    def parse_endtag(self, i: int) -> int:
        return self._end(super().parse_endtag(i))

    def parse_comment(self, i: int, report: bool = True) -> int:
        return self._end(super().parse_comment(i, report))

    def parse_pi(self, i: int) -> int:
        return self._end(super().parse_pi(i))

    def parse_html_declaration(self, i: int) -> int:
        try:
            return self._end(super().parse_html_declaration(i))
        except AssertionError:  # of a section of unknown name, <![x[
            return self._end(self.parse_bogus_comment(i))

    def _end(self, place: int) -> int:
        return len(self.rawdata) if place < 0 else place

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in self._UNSEEN:
            self._unseen += 1
        elif tag == "img" and not self._unseen:
            self._lines[-1].append(f" {dict(attributes).get('alt') or ''} ")
        elif tag not in self._INLINE:
            self._lines.append([])

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self._UNSEEN:
            self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag not in self._INLINE:
            self._lines.append([])

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._lines[-1].append(data)

    def blocks(self) -> list[str]:
        return [words for line in self._lines if (words := " ".join("".join(line).split()))]
