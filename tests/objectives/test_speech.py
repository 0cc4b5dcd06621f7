"""Labels of what is heard when, and their loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from one_peace.objectives.speech import (
    CLASSES,
    COLUMN,
    LETTERS,
    SILENCE,
    UNKNOWN,
    label_columns,
    sound_spans,
    speech_sound_loss,
    word_loss,
)


def label_sounds(sounds: list[tuple[float, str]], seconds: float, columns: int) -> torch.Tensor:
    return label_columns(sound_spans(sounds, seconds), columns)


def spelled(labels: torch.Tensor) -> str:
    return "".join("_" if x == SILENCE else "?" if x == UNKNOWN else LETTERS[x - 1] for x in labels.tolist())


def test_every_column_says_what_is_heard() -> None:
    sounds = [(0.04, "k"), (0.08, "ˈaː"), (0.14, ""), (0.18, "t")]
    assert spelled(label_sounds(sounds, 0.22, 13)) == "__kkaaa__tt__"


def test_letters_of_one_name_share_its_time() -> None:
    assert spelled(label_sounds([(0.0, "eɪ"), (0.08, "t͡ʃ")], 0.16, 8)) == "eeɪɪttʃʃ"


def test_a_letter_of_no_alphabet_is_not_counted() -> None:
    assert spelled(label_sounds([(0.0, "日"), (0.04, "a")], 0.08, 4)) == "??aa"


def test_nothing_said_is_silence() -> None:
    assert spelled(label_sounds([], 1.0, 3)) == "___"


@given(st.lists(st.tuples(st.floats(0, 2), st.text(max_size=4)), max_size=8), st.integers(0, 60))
def test_any_sounds_label_all_columns(sounds: list[tuple[float, str]], columns: int) -> None:
    labels = label_sounds(sorted(sounds), 2.0, columns)
    assert labels.shape == (columns,) and labels.dtype == torch.int64
    assert ((labels >= UNKNOWN) & (labels < CLASSES)).all()


def test_every_letter_has_a_class_of_its_own() -> None:
    sounds = [(i * COLUMN, letter) for i, letter in enumerate(LETTERS)]
    assert label_sounds(sounds, len(LETTERS) * COLUMN, len(LETTERS)).tolist() == list(range(1, CLASSES))


def test_words_hold_on_until_the_next_one() -> None:
    assert label_columns([(0.02, 7), (0.06, UNKNOWN), (0.08, 3)], 6).tolist() == [UNKNOWN, 7, 7, UNKNOWN, 3, 3]


def test_frames_within_words_are_told_apart() -> None:
    labels = torch.tensor([[4, 4, UNKNOWN], [9, 30, 30]])
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(1))
    loss, recognised = word_loss(logits, labels)
    chosen, places = logits.view(6, 50)[[0, 1, 3, 4, 5]], torch.tensor([4, 4, 9, 30, 30])
    assert loss.item() == pytest.approx(F.cross_entropy(chosen, places).item(), rel=1e-5)
    assert recognised.item() == pytest.approx((chosen.argmax(1) == places).float().mean().item())
    right, everything = word_loss(50.0 * F.one_hot(labels.clamp(min=0), 50), labels)
    assert right < 1e-3 and everything == 1.0


def test_a_batch_without_a_word_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 8, requires_grad=True)
    loss, recognised = word_loss(logits, torch.full((2, 3), UNKNOWN))
    loss.backward()
    assert loss == recognised == 0.0 and logits.grad is not None and not logits.grad.any()


def test_the_loss_counts_known_columns_alone() -> None:
    labels = torch.tensor([[1, SILENCE, UNKNOWN], [2, 3, SILENCE]])
    logits = torch.zeros(2, 3, CLASSES)
    loss, recognised = speech_sound_loss(logits, labels)
    assert loss.item() == pytest.approx(math.log(CLASSES)) and recognised == 0.0
    logits[0, 0, 1] = logits[1, 0, 2] = 50.0  # two of three sounds are right
    logits[0, 2, 5] = 50.0  # and what nobody knows is wrong
    loss, recognised = speech_sound_loss(logits, labels)
    assert loss.item() == pytest.approx(math.log(CLASSES) * 3 / 5, rel=1e-5)
    assert recognised.item() == pytest.approx(2 / 3)
