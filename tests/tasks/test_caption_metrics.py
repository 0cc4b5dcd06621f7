"""Caption metrics: properties, and the official tools' own numbers where they are installed."""

from __future__ import annotations

import math
import random
import shutil

import pytest

from one_peace.errors import MissingExtraError
from one_peace.tasks.caption_metrics.bleu import bleu
from one_peace.tasks.caption_metrics.cider import DocumentFrequency, cider_d, reward_words
from one_peace.tasks.caption_metrics.figures import MISSING, caption_figures
from one_peace.tasks.caption_metrics.meteor import meteor
from one_peace.tasks.caption_metrics.ptb import tokenize
from one_peace.tasks.caption_metrics.rouge import caption_rouge
from one_peace.tasks.summary_metrics import gigaword_figures, repair_tokens

WORDS = ["a", "the", "man", "dog", "two", "riding", "wave", "on", "in", "snow", "red", "bus", "cat", "sits", "near"]
CAPTIONS = [
    "A man's dog (brown), isn't running; it's 5 p.m.!",
    'Mr. Smith reads "The Times" at 3:45pm on Jan. 3rd...',
    "two half-eaten pizzas w/ 1/2 cup of cheese & 100,000 olives -- really?!",
    "They cannot, won't and don't see the dogs' toys [here] {there}",
]


def made_up(pictures: int, references: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    draw = random.Random(pictures)

    def caption() -> list[str]:
        return [draw.choice(WORDS) for _ in range(draw.randint(1, 12))]

    return [caption() for _ in range(pictures)], [[caption() for _ in range(references)] for _ in range(pictures)]


def test_words_of_a_caption() -> None:
    assert [" ".join(tokenize(caption)) for caption in CAPTIONS] == [
        "a man 's dog -lrb- brown -rrb- is n't running it 's 5 p.m.",
        "mr. smith reads the times at 3:45 pm on jan. 3rd",
        "two half-eaten pizzas w / 1/2 cup of cheese & 100,000 olives really ?!",
        "they can not wo n't and do n't see the dogs toys -lsb- here -rsb- -lcb- there -rcb-",
    ]
    assert tokenize("") == tokenize(" ... !") == []


@pytest.mark.parametrize(("pictures", "references"), [(1, 3), (12, 1), (12, 5)])
def test_equal_to_the_official_tools(pictures: int, references: int) -> None:
    """The maintained package of the COCO caption evaluation, on random captions."""
    pytest.importorskip("pycocoevalcap", reason="the official tools are not installed: pip install pycocoevalcap")
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    hypotheses, texts = made_up(pictures, references)
    made = {str(n): [" ".join(words)] for n, words in enumerate(hypotheses)}
    wanted = {str(n): [" ".join(words) for words in others] for n, others in enumerate(texts)}
    scorer = BleuScorer(n=4)
    for key, (text,) in made.items():
        scorer += (text, wanted[key])
    together, single = scorer.compute_score(option="closest", verbose=0)
    ours, ours_single = bleu(hypotheses, texts)
    assert ours == pytest.approx(together, rel=1e-12)
    assert ours_single == [pytest.approx(values, rel=1e-12) for values in single]
    mean, each = Cider().compute_score(wanted, made)
    assert cider_d(hypotheses, texts) == pytest.approx(list(each), rel=1e-9, abs=1e-12)
    mean, each = Rouge().compute_score(wanted, made)
    rouge = [caption_rouge(words, others) for words, others in zip(hypotheses, texts, strict=True)]
    assert rouge == pytest.approx(list(each), rel=1e-12)


@pytest.mark.skipif(shutil.which("java") is None, reason="the official tokeniser needs Java")
def test_words_equal_to_the_official_tokeniser() -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize({str(n): [{"caption": text}] for n, text in enumerate(CAPTIONS)})
    assert [theirs[str(n)][0] for n in range(len(CAPTIONS))] == [" ".join(tokenize(text)) for text in CAPTIONS]


def test_a_perfect_caption_and_a_foreign_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("one_peace.tasks.caption_metrics.figures.has_meteor", lambda: False)  # Java takes seconds
    references = {"1": ["a man rides a big wave"], "2": ["two dogs play in the snow"]}
    perfect = caption_figures({key: texts[0] for key, texts in references.items()}, references)
    assert perfect["CIDEr"] == pytest.approx(10) and perfect["ROUGE_L"] == pytest.approx(1)
    assert perfect["BLEU_4"] == pytest.approx(1, abs=1e-6)
    swapped = caption_figures({"1": references["2"][0], "2": references["1"][0]}, references)
    assert swapped["CIDEr"] == 0 and swapped["BLEU_4"] < 1e-3
    assert not set(MISSING) & set(perfect)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MissingExtraError, match="METEOR"):
        meteor([["a"]], [[["a"]]])


def test_document_frequencies_make_common_words_cheap() -> None:
    references = [[["a", "man"]], [["a", "dog"]], [["a", "cat"]]]
    frequency = DocumentFrequency.of(references)
    assert frequency.rarity(("a",)) == 0 and frequency.rarity(("dog",)) == pytest.approx(math.log(3))
    common, rare = cider_d([["a", "bus"], ["dog", "bus"]], [references[1], references[1]], frequency)
    assert common == 0 < rare
    assert reward_words(" A man, riding a wave. ") == ["A", "man", "riding", "a", "wave", "<eos>"]


def test_summaries() -> None:
    pytest.importorskip("rouge_score")
    assert gigaword_figures(["police arrest 3 men"], ["police arrested 3 men"])["rougeL"] == pytest.approx(1)
    assert repair_tokens("don ' t say ' yes '") == "do n't say ` yes '"
    assert repair_tokens("") == ""


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no captions"):
        caption_figures({}, {})
    with pytest.raises(ValueError, match="2 has no reference"):
        caption_figures({"1": "a", "2": "b"}, {"1": ["a"]})
    with pytest.raises(ValueError, match="references"):
        bleu([["a"]], [])
    with pytest.raises(ValueError, match="no reference"):
        cider_d([["a"]], [[]])
    with pytest.raises(ValueError, match="reference"):
        caption_rouge(["a"], [])
    with pytest.raises(ValueError, match="summaries"):
        gigaword_figures([], [])
