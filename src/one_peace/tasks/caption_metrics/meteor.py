"""METEOR 1.5 (Denkowski and Lavie 2014), which is a Java program: used where that is installed.

Its score depends on a table of millions of paraphrases and on how its search breaks ties, so nothing short of the
program itself gives the published numbers.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence

from one_peace.errors import MissingExtraError


def has_meteor() -> bool:
    """Whether the package `pycocoevalcap`, which brings the program, and Java are there."""
    return importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None


def meteor(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, list[float]]:
    """METEOR of all captions together, and of each, 0 to 1; words as of `ptb.tokenize`.

    `MissingExtraError` without the program or Java.
    """
    if not has_meteor():
        raise MissingExtraError("METEOR (besides Java)", "java-metrics")
    from pycocoevalcap.meteor.meteor import Meteor

    made = {str(index): [" ".join(words)] for index, words in enumerate(hypotheses)}
    wanted = {str(index): [" ".join(words) for words in others] for index, others in enumerate(references)}
    together, single = Meteor().compute_score(wanted, made)
    return float(together), [float(score) for score in single]
