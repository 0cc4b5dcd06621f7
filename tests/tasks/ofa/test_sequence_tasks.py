"""Rows of tables as examples of sequence tasks, with a vocabulary of bytes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from PIL import Image

from one_peace.data.boxed_pictures import BoxedPicture
from one_peace.modalities.tokenization import BOS_ID, EOS_ID, PAD_ID, Tokenizer, train_tokenizer
from one_peace.models.ofa.presets import preset
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.objectives.sequence import SequenceLossSettings, sequence_loss
from one_peace.tasks.ofa.answering import Answering
from one_peace.tasks.ofa.captioning import Captioning
from one_peace.tasks.ofa.drawing import Drawing
from one_peace.tasks.ofa.entailment import Entailment
from one_peace.tasks.ofa.example import SequenceExample, collate
from one_peace.tasks.ofa.infilling import ImageInfilling, TextInfilling, mask_spans
from one_peace.tasks.ofa.labelling import Labelling
from one_peace.tasks.ofa.pretraining import Corpus, Mixture
from one_peace.tasks.ofa.referring import Referring
from one_peace.tasks.ofa.sentences import QUESTIONS, SentenceAnswering
from one_peace.tasks.ofa.summarization import Summarization
from one_peace.tasks.ofa.task import PictureForm
from one_peace.tasks.task import BadRow

FORM = PictureForm(32)
IMAGE = Image.new("RGB", (64, 48), (200, 30, 30))


@pytest.fixture(scope="module")
def words() -> OfaVocabulary:
    tokenizer = Tokenizer(train_tokenizer(["a red dog in the snow"], 300))
    config = dataclasses.replace(preset("ofa-tiny"), vocabulary=tokenizer.vocab_size + 1 + 16 + 100, codes=16, bins=100)
    return OfaVocabulary(tokenizer, config)


def text(words: OfaVocabulary, ids: torch.Tensor) -> str:
    return words.decode(ids.tolist())


def test_captions_and_their_references(words: OfaVocabulary) -> None:
    row = {"image": IMAGE, "caption": "A dog, running!&&Two  dogs."}
    trained = Captioning(words, FORM, max_words=3).example(row, "r")
    assert text(words, trained.target) == " A dog runningTwo" and trained.pixels.shape == (3, 32, 32)
    assert trained.previous[0] == BOS_ID and trained.target[-1] == EOS_ID
    kept = Captioning(words, FORM, references=True).example(row, "r")
    assert kept.facts["references"] == ["A dog, running!", "Two  dogs."], "as people wrote them, to be judged by"
    assert text(words, kept.target) == " A dog running&&Two dogs"
    alone = Captioning(words, FORM).example({"image": IMAGE}, "r")
    assert alone.previous.tolist() == [BOS_ID] and alone.target.tolist() == [PAD_ID]


def test_boxes_there_and_back(words: OfaVocabulary) -> None:
    task = Referring(words, PictureForm(512))
    example = task.example({"image": IMAGE, "text": "The Red-dog", "region_coord": "8,6,32.5,40"}, "r")
    assert "the red dog" in text(words, example.source)
    back = words.ids_to_boxes(example.target[:4]) / example.facts["ratios"].repeat(2)
    assert (back - torch.tensor([8, 6, 32.5, 40])).abs().max() < 64 / 99
    for wrong in ("1,2,3", "5,5,1,9", "a,b,c,d", "70,6,90,40", "8,6,inf,40", "-3,6,32,40"):
        with pytest.raises(BadRow, match="region_coord"):
            task.example({"image": IMAGE, "text": "dog", "region_coord": wrong}, "r")


@pytest.mark.parametrize("column", [{"refs": "dog|!+0.6&&red dog|!+1"}, {"answers": "0.6|!+dog&&1|!+red dog"}])
def test_answers_in_both_forms(words: OfaVocabulary, column: dict[str, str]) -> None:
    task = Answering(words, FORM, answers=["dog", "red dog", "snow"], objects=True)
    row = {"image": IMAGE, "question": "What is in the snow", "objects": "dog&&snow", **column}
    example = task.example(row, "r")
    assert text(words, example.source) == " what is in the snow? object: dog snow"
    assert text(words, example.target) == " red dog" and example.confidence == 1
    allowed = example.allowed(words.size)
    assert not allowed[: len(example.prompt) - 1].any()
    places = range(len(example.prompt) - 1, len(example.target))
    assert all(allowed[place, example.target[place]] for place in places)
    with pytest.raises(BadRow, match=r"\|!\+"):
        task.example({"image": IMAGE, "question": "q", next(iter(column)): "dog"}, "r")


@pytest.mark.parametrize("refs", ["5", "dog|!+7", "dog|!+nan", "dog|!+-1", "|!+1", "a|!+b|!+c|!+1", "dog|!+1&&"])
def test_answers_of_another_form_are_refused(words: OfaVocabulary, refs: str) -> None:
    with pytest.raises(BadRow, match="'refs': .* is no answer"):
        Answering(words, FORM).example({"image": IMAGE, "question": "q", "refs": refs}, "r")


def test_texts_of_punctuation_alone_ask_nothing(words: OfaVocabulary) -> None:
    picture = {"image": IMAGE}
    for task, row in (
        (Referring(words, FORM), picture | {"text": "!!!"}),
        (Answering(words, FORM), picture | {"question": "???"}),
        (Entailment(words, FORM), picture | {"hypothesis": "...", "caption": "a dog"}),
        (Summarization(words), {"source": "#"}),
    ):
        with pytest.raises(BadRow, match="nothing in it but punctuation"):
            task.example(row, "r")


def test_captions_to_draw_keep_their_case_and_punctuation(words: OfaVocabulary) -> None:
    task = Drawing(words, 4)
    example = task.example({"caption": 'A Red-Bus  parked,\t(NYC) w/ "STOP"' + " and" * 60}, "r")
    told = 'A Red-Bus parked, (NYC) w/ "STOP"' + " and" * 58
    assert text(words, example.source) == f" what is the complete image? caption: {told}"
    with pytest.raises(BadRow, match="'caption' is empty"):
        task.example({"caption": " "}, "r")


def test_sentences_have_single_blanks(words: OfaVocabulary) -> None:
    row = {"sentence": " A fine   film\tindeed. " + "so " * 600}
    example = SentenceAnswering(words, QUESTIONS["sst2"]).example(row, "r")
    told = "a fine film indeed." + " so" * 508
    assert text(words, example.source) == f' is the sentiment of text " {told} " positive or negative?'


def test_prompts_of_each_kind(words: OfaVocabulary) -> None:
    row = {"sentence": "A Dog.", "label": "1"}
    made = {
        kind: SentenceAnswering(words, QUESTIONS["cola"], prompt=kind).example(row, "r")
        for kind in ("none", "source", "open")
    }
    source = made["none"].source.tolist()
    assert [list(made[kind].prompt) for kind in made] == [[BOS_ID], source, source[:-1]]
    for example in made.values():
        assert example.target[-1] == words.encode(" yes")[0] and (example.target[:-1] == PAD_ID).all()
        assert example.previous.tolist() == list(example.prompt)
    with pytest.raises(BadRow, match="label"):
        SentenceAnswering(words, QUESTIONS["cola"]).example({"sentence": "a", "label": "2"}, "r")


def test_a_batch_of_several_kinds_trains(words: OfaVocabulary) -> None:
    """Texts with and without a picture and image codes side by side, as in the pretraining mixture."""
    codes = " ".join(["3"] * 4)
    examples = [
        Captioning(words, FORM).example({"image": IMAGE, "caption": "a dog"}, "1"),
        Drawing(words, 4).example({"caption": "a dog", "codes": codes}, "2"),
        Summarization(words).example({"source": "The <unk> dog", "target": "dog"}, "3"),
    ]
    batch = collate(examples, words.size)
    assert batch.pictured.tolist() == [True, False, False] and batch.codes.tolist() == [False, True, False]
    assert not batch.pixels[1:].any() and batch.allowed is None
    logits = torch.zeros(*batch.target.shape, words.size)
    loss = sequence_loss(logits, batch.target, SequenceLossSettings(), pad=PAD_ID, end=EOS_ID)
    assert loss.tokens == sum(int((e.target != PAD_ID).sum()) for e in examples)
    with pytest.raises(ValueError, match="shapes"):
        collate([examples[0], Captioning(words, PictureForm(16)).example({"image": IMAGE}, "4")], words.size)
    with pytest.raises(BadRow, match="4 numbers"):
        Drawing(words, 4).example({"caption": "a dog", "codes": "1 2 3 16"}, "5")


def test_constrained_batches(words: OfaVocabulary) -> None:
    entailment, labels = Entailment(words, FORM), Labelling(words, ["dog", "red bus"], FORM)
    row = {"image": IMAGE, "hypothesis": "It snows", "caption": "a dog", "label": "neutral"}
    batch = collate([entailment.example(row, "1"), entailment.example(row | {"label": "entailment"}, "2")], words.size)
    chosen = batch.allowed.gather(2, batch.target[..., None])[..., 0]
    assert chosen[batch.target != PAD_ID].all()
    with pytest.raises(BadRow, match="sad"):
        entailment.example(row | {"label": "sad"}, "3")
    unknown = labels.example({"image": IMAGE}, "3")  # to predict
    assert unknown.target.tolist() == [PAD_ID] and unknown.facts == {"answer": None}
    with pytest.raises(BadRow, match="2 classes"):
        labels.example({"image": IMAGE, "label": "cat"}, "4")
    unconstrained = Captioning(words, FORM).example({"image": IMAGE, "caption": "a dog"}, "5")
    with pytest.raises(ValueError, match="given answers"):
        collate([labels.example({"image": IMAGE, "label": "dog"}, "6"), unconstrained], words.size)


def test_noise_and_holes(words: OfaVocabulary) -> None:
    task, generator = Summarization(words), torch.Generator().manual_seed(0)
    example = task.example({"source": "snow", "target": "a red dog in the snow " * 20}, "r")
    noisy = task.noisy(example, 0.2, generator)
    changed = (noisy.previous != example.previous).float().mean()
    assert 0.1 < changed < 0.3 and noisy.previous[0] == BOS_ID and torch.equal(noisy.target, example.target)
    hole = ImageInfilling(words, 4, PictureForm(32)).example({"image": IMAGE, "codes": "1 2 3 4"}, "r")
    assert not hole.pixels[:, 8:24, 8:24].any() and hole.pixels[:, :8].all() and hole.codes


def test_spans_of_words_become_masks(words: OfaVocabulary) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.arange(10, 210)
    starts = torch.arange(200) % 2 == 0  # words of two tokens
    for _ in range(5):
        masked = mask_spans(tokens, starts, 9, 0.3, 3.0, generator)
        left = masked[masked != 9]
        assert (left.diff() > 0).all(), "what stays keeps its order"
        assert 0.6 < len(left) / len(tokens) < 0.85 and (masked == 9).sum() > 3
        pairs = set(left.tolist())
        assert all((token + 1 in pairs) == (token in pairs) for token in range(10, 210, 2)), "whole words are hidden"
    made = TextInfilling(words, words.tokenizer.whole_word_starts).example({"text": "A red dog in the snow"}, "r")
    assert text(words, made.target) == " a red dog in the snow" and words.mask_id in made.source.tolist()
    assert len(mask_spans(torch.tensor([], dtype=torch.int64), starts[:0], 9, 0.3, 3.0, generator)) == 0


def test_the_mixture(words: OfaVocabulary) -> None:
    corpus = Corpus(["a cat", "two birds"], ["cat", "bus"], {"other": ["blue", "cat"], "number": ["1", "2"]})
    task = Mixture(words, corpus, pictures=FORM)
    generator = torch.Generator().manual_seed(0)
    right = []
    for _ in range(30):
        row = {"image": IMAGE, "type": "caption", "caption": "A red dog", "objects": "dog"}
        caption, matching = task.examples(row, "r", generator)
        assert text(words, caption.target) == " a red dog"
        right.append(text(words, matching.target) == " yes")
        assert ("a red dog" in text(words, matching.source)) == right[-1] == matching.facts["right"]
    assert 5 < sum(right) < 25
    row = {"image": IMAGE, "type": "qa", "question": "How many dogs?", "answers": "0.6|!+2"}
    answer, matching = task.examples(row, "r", generator)
    assert text(words, answer.target) == " 2" and answer.confidence == matching.confidence == 0.6
    row = {"image": IMAGE, "type": "visual_grounding", "caption": "dog", "region_coord": "0,0,32,24"}
    where, what = task.examples(row, "r", generator)
    assert where.target[:4].tolist() == what.source[-5:-1].tolist() and text(words, what.target) == " dog"
    noisy = task.example({"image": IMAGE, "type": "caption", "caption": "by Ann a dog", "dataset": "cc12m"}, "r")
    assert noisy.target[:2].tolist() == [PAD_ID] * 2 and noisy.target[-1] == EOS_ID
    found = task.detection(BoxedPicture(IMAGE, torch.tensor([[0.0, 0, 8, 8]]), ("dog",)), "r")
    assert found.confidence == 2 and text(words, found.target[4:]) == " dog"
    with pytest.raises(BadRow, match="type"):
        task.examples({"image": IMAGE, "type": "sound"}, "r", generator)


def test_wrong_answers_are_of_the_kind_of_the_right_one(words: OfaVocabulary) -> None:
    answers = {"other": ["blue", "cat"], "number": ["0", "1", "2", "7"]}
    types = {"2": "number", "0": "number", "blue": "other"}
    task = Mixture(words, Corpus(["a cat"], ["cat"], answers, types), pictures=FORM)
    generator = torch.Generator().manual_seed(0)

    def asked(question: str, answer: str, confidence: float) -> Counter[str]:
        return Counter(task._wrong_answer(question, answer, confidence, generator) for _ in range(2000))

    sure = asked("how many dogs?", "2", 2.0)
    shares = {"0": 1 / 8, "1": 3 / 8, "3": 1 / 4, "7": 1 / 4}  # a neighbour, or any other number
    assert set(sure) == set(shares) and all(abs(sure[one] / 2000 - share) < 0.04 for one, share in shares.items())
    none = asked("how many dogs?", "0", 2.0)
    assert set(none) == {"1", "2", "7"} and none["1"] > 1000, "no answer is less than none"
    assert set(asked("what colour?", "blue", 2.0)) == {"cat"}
    assert set(asked("how many dogs?", "2", 0.05)) == {"blue", "cat"}, "nobody is sure that it is a number"


def test_a_bad_row_is_named() -> None:
    example = SequenceExample("k", torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
    assert example.allowed(5) is None
    with pytest.raises(ValueError, match="at least one"):
        collate([], 5)
