"""ROUGE of one-line summaries (Gigaword), and the clean-up of generated text that it is published with."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from one_peace.errors import MissingExtraError

Score = tuple[float, float, float]
"""Precision, recall and F1."""

_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WRITTEN |= {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ENDINGS = ("s", "d", "ll")  # of contractions


def gigaword_figures(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L, 0 to 1, mean over summaries; both are cleaned up as published."""
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} summaries do not go with {len(references)} references")
    pairs = [(_clean(a), _clean(b)) for a, b in zip(predictions, references, strict=True)]
    scores = [summary_rouge(a, b) for a, b in pairs]
    return {name: sum(score[name][2] for score in scores) / len(scores) for name in scores[0]}


def _clean(text: str) -> str:
    return repair_tokens(text.lower()).replace("1", "#")


def summary_rouge(prediction: str, reference: str) -> dict[str, Score]:
    """ROUGE-1, -2 and -L of a one-line summary, on word stems. `MissingExtraError` without the package
    `rouge-score`."""
    scores = _scorer().score(reference, prediction)
    return {name: (score.precision, score.recall, score.fmeasure) for name, score in scores.items()}


@lru_cache(maxsize=1)
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("ROUGE of summaries", "metrics") from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def repair_tokens(text: str) -> str:
    """Words that the tokeniser took apart, put together as in the Gigaword references: `don ' t` is `do n't`.

    Known of the published function and kept: initials that are joined leave their last point behind once more.
    """
    given = text.split()
    made: list[str] = []
    opened = {'"': False, "'": False}
    joining = False  # whether the last token ended with a dash that the next word belongs to
    place = 0

    def ahead(distance: int) -> str:
        return given[place + distance] if place + distance < len(given) else ""

    while place < len(given):
        token, last = given[place], made[-1] if made else ""
        used, joined = 1, False
        if token in _WRITTEN:
            made.append(_WRITTEN[token])
        elif token == "'" and last.endswith("n") and ahead(1) == "t":
            made[-1:] = [last[:-1], "n't"]
            used = 2
        elif token == "'" and ahead(1) in _ENDINGS:
            made.append(token + ahead(1))
            used = 2
        elif token in opened:
            left, right = ("``", "''") if token == '"' else ("`", "'")
            made.append(right if opened[token] else left)
            opened[token] = not opened[token]
        elif token == "." and ahead(1) == ahead(2) == ".":
            made.append("...")
            used = 3
        elif token in (",", ".") and last.isdigit() and ahead(1).isdigit():
            made[-1] += token + ahead(1)
            used = 2
        elif token == "." and _initial(last) and _initial(ahead(1)) and ahead(2) == ".":
            initials = re.match(r"(?:[^\W\d_] \. )*", " ".join([*given[place + 1 :], ""]))
            assert initials is not None
            made[-1] += "." + "".join(initials[0].split())
            used = 2
        elif token == "-" and ahead(1) == "-":
            made.append("--")
            used = 2
        elif token == "-" and last and ahead(1) and last not in string.punctuation and not _mark(ahead(1)):
            made[-1] += "-"
            joined = True
        elif joining and not _mark(token):
            made[-1] += token
        else:
            made.append(token)
        place, joining = place + used, joined
    return " ".join(made)


def _initial(word: str) -> bool:
    return len(word) == 1 and word.isupper()


def _mark(word: str) -> bool:
    return word[0] in string.punctuation
