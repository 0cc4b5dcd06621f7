"""The check of `parity.py` for metrics of generated text."""

from __future__ import annotations

import torch

from one_peace.tasks.caption_metrics.bleu import bleu
from one_peace.tasks.caption_metrics.cider import cider_d
from one_peace.tasks.caption_metrics.meteor import has_meteor, meteor
from one_peace.tasks.caption_metrics.ptb import tokenize
from one_peace.tasks.caption_metrics.rouge import caption_rouge
from one_peace.tasks.summary_metrics import repair_tokens, summary_rouge
from parity import Check, Comparison
from parity_files import Fixture


def check_metrics(fixture: Fixture, compare: Comparison) -> None:
    """Words, then every metric of all captions and of each."""
    facts = fixture.meta
    keys = list(facts["refs"])
    for kind in ("ref", "hyp"):
        for key in keys:
            for text, words in zip(facts[f"{kind}s"][key], facts[f"{kind}_tokens"][key], strict=True):
                compare.exact(f"words of {text!r}", " ".join(tokenize(text)), words)
    hypotheses = [facts["hyp_tokens"][key][0].split() for key in keys]
    references = [[text.split() for text in facts["ref_tokens"][key]] for key in keys]

    def close(name: str, ours: object, theirs: object) -> None:
        both = (torch.tensor(values, dtype=torch.float64) for values in (ours, theirs))
        compare.feature(name, *both, 1e-9)

    together, single = bleu(hypotheses, references)
    close("BLEU", together, facts["bleu"])
    close("BLEU of each", single, facts["bleu_per"])
    rouge = [caption_rouge(words, others) for words, others in zip(hypotheses, references, strict=True)]
    close("ROUGE-L of each", rouge, facts["rouge_l_per"])
    close("ROUGE-L", sum(rouge) / len(rouge), facts["rouge_l"])
    cider = cider_d(hypotheses, references)
    close("CIDEr of each", cider, facts["cider_per"])
    close("CIDEr", sum(cider) / len(cider), facts["cider"])
    if has_meteor():
        together, single = meteor(hypotheses, references)
        close("METEOR", together, facts["meteor"])
        close("METEOR of each", single, facts["meteor_per"])
    else:
        compare.leave_out("METEOR", "needs Java and its jar")
    for case in facts["rouge_score_use_stemmer"]:
        for name, score in summary_rouge(case["pred"], case["ref"]).items():
            close(f"{name} of {case['pred']!r}", score, case["scores"][name])
    for case in facts["gigaword_fix_tokenization"]:
        compare.exact(f"repair of {case['text']!r}", repair_tokens(case["text"]), case["out"])


CHECKS: dict[str, Check] = {"metrics": check_metrics}
