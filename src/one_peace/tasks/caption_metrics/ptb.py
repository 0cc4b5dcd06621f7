"""Captions cut into words as the Penn Treebank does, the way caption metrics are computed on.

The official evaluation uses a Java program (Stanford's PTBTokenizer, lower case) and then leaves out punctuation.
These are its rules for English captions, not the whole program: numbers with separators, contractions ("do n't", "dog
's"), abbreviations, acronyms, hyphenated words, web addresses, smileys."""

from __future__ import annotations

import re
import string

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""What the official tools leave out. Brackets are among them in capitals only, so that lower-case ones stay."""

_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|thu|fri|sat|sun"
    "|mr|mrs|ms|drs?|profs?|messrs|st|sr|jr|rev|hon|gen|col|capt|lt|cmdr|sgt|cpl|pvt|maj|adm|gov|sens?|reps?|pres|supt"
    "|inc|cos?|corp|ltd|bros|assn|dept|univ|est|bldg|blvd|ave|rd|mt|ft|pp?|nos?|vol|vs|v|etc|al|cf|viz"
    "|ariz|ark|calif|colo|conn|ct|dak|del|fla|ga|ill|ind|kans?|ky|la|mass|md|mich|minn|miss|mo|mont|neb|nev|okla|ont"
    "|ore|pa|penn|tenn|tex|va|vt|wash|wis|wyo"
    r"|e\.g|i\.e|ph\.d|u\.s|a\.m|p\.m"
)
_NOT_IN_ADDRESS = r"\s\"<>|()"
_LETTER = r"[^\W\d_]"
_WORD = r"(?:[^\W_]|_)"
_PATTERNS = {
    "address": rf"https?://[^{_NOT_IN_ADDRESS}]+[^{_NOT_IN_ADDRESS}.!?,;:-]"
    rf"|(?:[a-z0-9][\w.+-]*@)(?:[\w-]+\.)+[a-z]+"
    rf"|(?:www\.)(?:[\w-]+\.)+[a-z]+(?:/[^{_NOT_IN_ADDRESS}]+[^{_NOT_IN_ADDRESS}.!?,;:-])?"
    r"|(?:[\w-]+\.)+(?:com|net|org|edu)\b",
    "tag": r"</?[a-z!?][^<>]*>",
    "handle": r"[@#][a-z_]\w*",
    "smiley": r"[<>]?[:;=][-o*']?[()dpo\\{@|\[\]](?!\w)",
    "assimilated": r"can(?=not\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|gim(?=me\b)|wan(?=na\b)|'t(?=is\b)|'t(?=was\b)",
    "fraction": r"\d+/\d+(?:/\d+)?(?!\w)",
    "signed": r"(?<![^\s(])[-+](?=\d)\d*(?:[.,]?\d+)+",
    "number": rf"\d+(?:[.,]\d+)+(?:-{_WORD}+)+|\d*(?:[.,:]\d+)+|\d+(?=[$%°])",
    "abbreviation": rf"\b(?:{_ABBREVIATIONS})\.(?![\w.])",
    "initials": rf"\b(?:{_LETTER}\.)+{_LETTER}\b\.?|\b{_LETTER}\.(?![\w.])",
    "not": rf"{_LETTER}+(?=n'?t\b)(?<=[a-z])(?=n't)|n't\b",
    "short": r"'(?:s|m|d|re|ve|ll)\b|'(?:n\b'?|em\b|\d\ds?\b|cause\b|til\b)",
    "elided": rf"(?:o|d|l|s)'(?!s\b|d\b){_LETTER}+|(?:ol|y)'",
    "currency": r"us\$",
    "word": rf"pro-(?=\s)|{_WORD}+(?:[-/&.]{_WORD}+)*?(?=n't\b)|{_WORD}+(?:(?:[-/&!?]|\.(?=[^\W\d]{{2}})){_WORD}+)*",
    "dashes": r"-{2,}",
    "dots": r"\.{3,}",
    "marks": r"[?!]+",
    "stars": r"\*{2,}",
    "quotes": "''|``",
    "other": r"\S",
}
_TOKEN = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS.values()))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REWRITTEN = str.maketrans(
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "–": "--", "—": "--"}
    | {"‘": "'", "’": "'", "“": '"', "”": '"', "½": "1/2", "¼": "1/4", "¾": "3/4", "€": "$", "£": "#", "…": "..."}
)


def tokenize(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation."""
    return [word for word in ptb_tokens(caption) if word not in PUNCTUATION]


def without_punctuation(caption: str) -> str:
    """A caption without ASCII punctuation, with single blanks: as OFA is taught, rewarded and judged by."""
    return " ".join(caption.translate(_NO_PUNCTUATION).split())


def ptb_tokens(text: str) -> list[str]:
    """All tokens of a text in lower case."""
    text = text.lower().translate({ord("’"): "'", ord("‘"): "'", ord("`"): "`"})
    return [_written(token) for token in _TOKEN.findall(text)]


def _written(token: str) -> str:
    if token in ('"', "“", "”"):
        return "''"
    if token[0] == "-" and len(token) > 1 and not token.strip("-"):
        return "--"
    if token.startswith("..."):
        return "..."
    if token[0] == "<" and token[-1] == ">":
        return token
    return token.translate(_REWRITTEN)
