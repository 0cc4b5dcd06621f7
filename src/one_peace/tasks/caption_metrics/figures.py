"""The figures of the COCO caption evaluation, all but METEOR and SPICE without Java."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from one_peace.tasks.caption_metrics.bleu import bleu
from one_peace.tasks.caption_metrics.cider import cider_d
from one_peace.tasks.caption_metrics.meteor import has_meteor, meteor
from one_peace.tasks.caption_metrics.ptb import tokenize
from one_peace.tasks.caption_metrics.rouge import caption_rouge

MISSING = ("SPICE",)
"""Figures of the official evaluation that are not computed: SPICE is a Java program with models of its own."""


def caption_figures(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr (0 to 10), BLEU_1 to BLEU_4 and ROUGE_L (0 to 1), by the official names; METEOR where Java and its program
    are (`has_meteor`), and not those of `MISSING`.

    captions: what was generated for each picture; references: what people wrote about it. CIDEr's document frequencies
    are those of these references, as in the official evaluation. `ValueError` where a picture has none.
    """
    if not captions:
        raise ValueError("no captions to evaluate")
    without = [key for key in captions if not references.get(key)]
    if without:
        raise ValueError(f"{without[0]} has no reference caption, nor have {len(without) - 1} others")
    words = [tokenize(caption) for caption in captions.values()]
    others = [[tokenize(text) for text in references[key]] for key in captions]
    rouge = [caption_rouge(mine, theirs) for mine, theirs in zip(words, others, strict=True)]
    scores, _ = bleu(words, others)
    cider = cider_d(words, others)
    figures = {"CIDEr": sum(cider) / len(cider)}
    figures |= {f"BLEU_{n}": score for n, score in enumerate(scores, start=1)}
    figures["ROUGE_L"] = sum(rouge) / len(rouge)
    return figures | ({"METEOR": meteor(words, others)[0]} if has_meteor() else {})
