"""The OFA that users hold: one input or many, alone or in batches, and inputs that cannot be used."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.errors import InputError
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import drawing, interface, prompts
from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.processor import Box, OfaProcessor
from one_peace.models.ofa.running import Results
from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.model import Vqgan
from one_peace.tasks.drawn_boxes import draw_box
from tiny_ofa import BINS, CODES, CONFIG, WORDS, tiny_model, tiny_ofa, vocabulary

PICTURES = [
    Image.new("RGB", (64, 40), "red"),
    Image.radial_gradient("L").resize((30, 90)).convert("RGB"),
    Image.linear_gradient("L").resize((48, 48)).convert("RGB"),
]

QUICK = {"beams": 2, "max_tokens": 5}


@pytest.fixture(scope="module")
def ofa() -> Ofa:
    return tiny_ofa()


def test_one_or_many(ofa: Ofa) -> None:
    captions = ofa.caption(PICTURES, **QUICK)
    assert [ofa.caption(picture, **QUICK) for picture in PICTURES] == captions
    assert all(isinstance(caption, str) for caption in captions) and len(set(captions)) > 1
    assert ofa.caption(PICTURES, batch_size=1, **QUICK) == captions
    assert ofa.caption([]) == []
    buffer = io.BytesIO()
    PICTURES[0].save(buffer, format="PNG")
    assert ofa.caption(io.BytesIO(buffer.getvalue()), **QUICK) == captions[0] == ofa.caption(iter(PICTURES), **QUICK)[0]


def test_pictures_and_texts_go_together(ofa: Ofa) -> None:
    questions = ["what is red?", "how many dogs", "a longer question about the two dogs in this image"]
    answers = ofa.answer(PICTURES, questions, **QUICK)
    assert [ofa.answer(p, q, **QUICK) for p, q in zip(PICTURES, questions, strict=True)] == answers
    assert ofa.answer(PICTURES[0], questions, **QUICK)[0] == answers[0]
    assert len(ofa.answer(PICTURES, questions[0], **QUICK)) == 3
    with pytest.raises(ValueError, match="3 pictures for 2 texts"):
        ofa.answer(PICTURES, questions[:2])


def test_the_likeliest_of_given_answers(ofa: Ofa) -> None:
    """Against the sum of log-probabilities among what the answers allow, by whole forward passes."""
    candidates = ["red", "two dogs", "a red apple", "two"]
    chosen = ofa.answer(PICTURES, "what is it?", candidates)
    assert set(chosen) <= set(candidates)
    assert ofa.classify(PICTURES[0], candidates) in candidates
    with pytest.raises(ValueError, match="at least one"):
        ofa.classify(PICTURES[0], [])
    with pytest.raises(ValueError, match="must be a list"):
        ofa.classify(PICTURES[0], "red")
    for given in (iter(candidates), dict.fromkeys(candidates), np.array(candidates)):
        assert ofa.answer(PICTURES, "what is it?", given) == chosen
    with pytest.raises(InputError, match=r"None: expected a text \(str\), got NoneType"):
        ofa.answer(PICTURES[0], "what is it?", ["red", None])  # type: ignore[list-item]


@pytest.mark.parametrize("prompt", ["src", "prev_output"])
def test_decoders_that_are_given_the_question(prompt: str) -> None:
    ofa = tiny_ofa(prompt=prompt)
    questions = ["what is red?", "how many dogs are there", "where"]
    together = ofa.answer(PICTURES, questions, **QUICK)
    assert together == [ofa.answer(p, q, **QUICK) for p, q in zip(PICTURES, questions, strict=True)]
    assert ofa.answer(PICTURES, questions, ["yes", "no"]) == ofa.answer(
        PICTURES, questions, ["yes", "no"], batch_size=1
    )


def test_boxes_lie_in_the_picture(ofa: Ofa) -> None:
    boxes = ofa.locate(PICTURES, "the red apple")
    phrases = [f"thing {number}" for number in range(12)]  # among whose boxes some are written inside out
    places = [(PICTURES[0], box) for box in ofa.locate(PICTURES[0], phrases)]
    for picture, box in [*zip(PICTURES, boxes, strict=True), *places]:
        assert isinstance(box, Box)
        assert 0 <= box.x0 <= box.x1 <= picture.width and 0 <= box.y0 <= box.y1 <= picture.height
        draw_box(picture, (box.x1, box.y1, box.x0, box.y0), "a thing")
    assert ofa.locate(PICTURES[1], "the red apple") == pytest.approx(boxes[1])


def bins(box: tuple[float, ...], size: tuple[int, int]) -> list[int]:
    ratios = torch.tensor([CONFIG.image_size / side for side in size] * 2)
    return vocabulary().boxes_to_ids(torch.tensor(box) * ratios).tolist()


def test_bins_there_and_back(ofa: Ofa) -> None:
    box, size = (10.0, 20.0, 60.0, 70.0), (100, 200)
    ids = bins(box, size)
    again = ofa.processor.box(ids, size)
    assert all(abs(a - b) <= side / (BINS - 1) / 2 + 1e-3 for a, b, side in zip(box, again, size * 2, strict=True))
    assert bins((0, 0, 100, 200), size) == [*vocabulary().symbols("<bin_0> <bin_0> <bin_19> <bin_19>")]
    assert bins((-9, 0, 150, 200), size)[::2] == [3, 3]  # beyond the picture: no bin
    assert ofa.processor.box([3, 3, *ids[2:]], size)[:2] == (0.0, 0.0)
    assert ofa.processor.box([*ids[2:], *ids[:2]], size) == again, "corners are put in order"
    whole = vocabulary().box(vocabulary().symbols("<bin_19> <bin_0> <bin_0> <bin_19>"), CONFIG.image_size)
    assert whole.tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="four"):
        ofa.processor.box(ids[:3], size)


def test_inputs_that_cannot_be_used(ofa: Ofa, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.png"
    with pytest.raises(InputError, match=r"nothing\.png"):
        ofa.caption([PICTURES[0], missing])
    result = ofa.caption([missing, PICTURES[0], b"no picture"], on_error="skip", **QUICK)
    assert isinstance(result, Results) and result.kept == [1] and sorted(result.errors) == [0, 2]
    assert result.values == [ofa.caption(PICTURES[0], **QUICK)]
    with pytest.raises(ValueError, match="on_error"):
        ofa.caption(PICTURES[0], on_error="ignore")  # type: ignore[arg-type]
    for question in ([3], 3, None):
        with pytest.raises(InputError, match="expected a text"):
            ofa.answer(PICTURES[0], question)  # type: ignore[arg-type]
    assert list(ofa.answer(PICTURES[0], ["red?", 3], on_error="skip", **QUICK).errors) == [1]  # type: ignore[list-item]
    with pytest.raises(InputError, match="64 can be read"):
        ofa.generate(" red" * 200)
    with pytest.raises(ValueError, match="nothing to encode"):
        ofa.encode([])
    for candidate, problem in (("red " * 200, "64 can be read"), (" ", "without words")):
        with pytest.raises(InputError, match=problem):
            ofa.answer(PICTURES[0], "what is red?", ["red", candidate])


def test_scores_that_are_no_numbers_answer_nothing() -> None:
    ofa = tiny_ofa()
    ofa.coder = Vqgan(VqganConfig(CODES, code_width=32, width=32, multipliers=(1, 1), blocks=1, attention=()))
    ofa.model.encoder.norm.weight.data[0] = math.nan
    asked: list[Callable[..., Any]] = [
        partial(ofa.caption, PICTURES[:2]),
        partial(ofa.answer, PICTURES[:2], "red?", ["red", "two"]),
        partial(ofa.locate, PICTURES[:2], "an apple"),
        partial(ofa.draw, ["an apple", "two dogs"], samples=2),
    ]
    for ask in asked:
        with pytest.raises(InputError, match="gets no answer: its scores are not finite numbers"):
            ask()
        left_out = ask(on_error="skip")
        assert left_out.values == [] and sorted(left_out.errors) == [0, 1]


@pytest.mark.parametrize("prompt", ["none", "src"])
def test_what_is_written_ends_where_positions_do(prompt: str) -> None:
    """After a prompt of the decoder's own, too, which leaves fewer of them."""
    ofa = tiny_ofa(prompt=prompt)
    start = 1 if prompt == "none" else len(ofa.processor(" two dogs").tokens)
    room = CONFIG.text_positions - start
    endless = GenerationSettings(EOS_ID, PAD_ID, max_tokens=500, min_tokens=room)
    assert isinstance(ofa.generate(" two dogs", settings=endless), str)


def test_a_question_that_leaves_no_room_for_the_answers_is_left_out() -> None:
    ofa = tiny_ofa(prompt="src")
    encode, most = ofa.processor.vocabulary.encode, ofa.config.longest_text - 2
    longest = max(
        (question for count in range(1, 99) if len(encode(prompts.ask(question := "q" * count))) <= most), key=len
    )
    long_answer = ["red", "two dogs and an apple"]
    found = ofa.answer(PICTURES[0], ["red?", longest], long_answer, on_error="skip")
    assert found.kept == [0] and "no allowed one fits" in str(found.errors[1])
    assert found.values == [ofa.answer(PICTURES[0], "red?", long_answer)]


def test_what_is_asked_about_a_picture_needs_one(ofa: Ofa) -> None:
    for asked in (
        partial(ofa.caption, **QUICK),
        partial(ofa.answer, questions="what is red?", **QUICK),
        partial(ofa.answer, questions="what is red?", answers=["red", "two"]),
        partial(ofa.locate, phrases="the red apple", beams=1),
        partial(ofa.classify, labels=["red", "two"]),
    ):
        for nothing in (None, [PICTURES[0], None]):
            with pytest.raises(InputError, match="expected a picture"):
                asked(nothing)
        assert list(asked([PICTURES[0], None], on_error="skip").errors) == [1]
    assert isinstance(ofa.generate(" what is red?", [None])[0], str)
    assert ofa.choose(" what is red?", None, ["red", "two"]) in ("red", "two")


@pytest.mark.parametrize("nothing", ["", "  \n", "???"])
def test_questions_without_words_are_refused(ofa: Ofa, nothing: str) -> None:
    for ask in (ofa.answer, ofa.locate):
        with pytest.raises(InputError, match="has no words to ask with"):
            ask(PICTURES[0], nothing)
    assert list(ofa.locate(PICTURES[0], ["a dog", nothing], beams=1, on_error="skip").errors) == [1]


def test_captions_without_words_are_refused() -> None:
    with pytest.raises(InputError, match="has no words"):
        prompts.draw(" \n")


def test_without_a_vocabulary() -> None:
    model = tiny_model()
    silent = Ofa(model, OfaProcessor(model.config, None))
    with pytest.raises(InputError, match="without a vocabulary"):
        silent.caption(PICTURES[0])


def test_drawing(ofa: Ofa, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="coder"):
        ofa.draw("a red apple")
    torch.manual_seed(0)
    coder = Vqgan(VqganConfig(CODES, code_width=32, width=32, multipliers=(1, 1), blocks=1, attention=())).eval()
    artist = Ofa(ofa.model, ofa.processor, coder)
    pictures = artist.draw("a red apple", samples=2)
    assert [p.size for p in pictures] == [(CONFIG.code_grid * coder.config.patch,) * 2] * 2
    same = artist.draw(["a red apple"], samples=2)[0]
    assert [p.tobytes() for p in pictures] == [p.tobytes() for p in same]
    among = artist.draw(["a blue car on a long road", "a red apple", "a red apple"], samples=2)
    assert [p.tobytes() for p in among[1]] == [p.tobytes() for p in among[2]] == [p.tobytes() for p in pictures]
    together: list[int] = []

    def counted(decoder: Any, start: torch.Tensor, *more: Any, **options: Any) -> Any:
        together.append(len(start))
        return sample(decoder, start, *more, **options)

    monkeypatch.setattr(drawing, "sample", counted)
    monkeypatch.setitem(interface.POSITIONS_PER_BATCH, "cpu", 16 * (CONFIG.code_grid**2 + 1) - 1)
    artist.draw(["a red apple"] * 2, samples=8)
    assert together == [1, 1], "what is written takes memory, not what is read"
    monkeypatch.undo()
    (first, second) = artist.draw("a red apple", samples=2, top_p=1e-6)
    assert first.tobytes() == second.tobytes(), "of every code the likeliest"
    (first, second) = artist.draw("a red apple", samples=2, temperature=1e-3)
    assert first.tobytes() == second.tobytes(), "so cold that chance decides nothing"
    other = artist.draw("a red apple", samples=2, seed=1)
    assert [p.tobytes() for p in pictures] != [p.tobytes() for p in other]


def test_prompts_and_cleaning() -> None:
    assert (
        prompts.locate("...The red-haired <person>")
        == ' which region does the text " the red haired person " describe?'
    )
    assert prompts.ask("Is it a <person>") == " is it a <person>?" and prompts.ask("who?") == " who?"
    assert (
        prompts.draw(" A Red-Bus  parked,\t(NYC)\n") == " what is the complete image? caption: A Red-Bus parked, (NYC)"
    )
    assert prompts.draw("A " * 65) == " what is the complete image? caption:" + " A" * 64
    assert clean_text(" a  b\t\tc\n", 2) == "a b"


def test_symbols(ofa: Ofa) -> None:
    words = vocabulary()
    assert words.size == CONFIG.vocabulary and words.mask_id == WORDS
    text = "<mask> <code_0> <bin_19> </s> <unk>"
    ids = words.symbols(text)
    assert ids == [WORDS, WORDS + 1, CONFIG.vocabulary - 1, 2, 3]
    assert words.decode(ids) == "<mask><code_0><bin_19><unk>"
    assert words.symbols(f"<bin_{BINS}> <code_{CODES}> word") == [3, 3, 3]
    assert words.decode(words.encode(" a red <bin_5>")) == " a red <bin_5>"
    assert pickle.loads(pickle.dumps(words)).encode(" two dogs") == words.encode(" two dogs")
    with pytest.raises(ValueError, match="this vocabulary has"):
        words.name(words.size)
    with pytest.raises(ValueError, match="rows before <mask>"):
        OfaVocabulary(words.tokenizer, tiny_model(vocabulary=CONFIG.vocabulary + 1).config)
