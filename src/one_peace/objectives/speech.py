"""Speech sounds and words, column by column: targets that take an audio encoder from noises to phonemes to words.

The columns are those of the spectrogram, one every 20 ms. A sound is a letter of the phonetic alphabet without length,
stress or any other mark, or silence.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMN = 0.02  # seconds
LETTERS = "abcdefhijklmnopqrstuvwxyzæðøħŋœɐɑɒɓɔɕɖɗəɚɛɜɟɡɣɤɥɦɨɪɫɬɭɮɯɰɱɲɳɵɸɹɻɽɾʀʁʂʃʈʉʊʋʌʎʏʐʑʒʔʝβθχᵻ"
SILENCE = 0
CLASSES = 1 + len(LETTERS)
UNKNOWN = -1  # a label that no loss counts
_CLASS_OF = {letter: index for index, letter in enumerate(LETTERS, 1)} | {"ε": LETTERS.index("ɛ") + 1}


def sound_classes(name: str) -> list[int]:
    """The classes of the letters of a sound's name in IPA: `SILENCE` alone if it has none, and `UNKNOWN` for letters
    that are none of `LETTERS`."""
    letters = [c for c in unicodedata.normalize("NFD", name) if unicodedata.category(c) in ("Ll", "Lo", "Lu")]
    return [_CLASS_OF.get(letter, UNKNOWN) for letter in letters] or [SILENCE]


def sound_spans(sounds: Sequence[tuple[float, str]], seconds: float) -> list[tuple[float, int]]:
    """Named sounds as classes: (second at which it begins, name in IPA) -> (second, class), silence before and after.

    Of a name of several letters each gets an equal share of the time until the next sound, of the last until `seconds`.
    """
    spans = [(0.0, SILENCE)]
    starts = [start for start, _ in sounds]
    for (start, name), end in zip(sounds, [*starts[1:], seconds], strict=False):
        classes = sound_classes(name)
        spans += [(start + (end - start) * part / len(classes), value) for part, value in enumerate(classes)]
    return [*spans, (seconds, SILENCE)]


def label_columns(spans: Sequence[tuple[float, int]], columns: int) -> Tensor:
    """The class of every column -> (columns,) int64; of (second at which it begins, class) the last one holds on."""
    labels = torch.full((columns,), UNKNOWN)
    for start, value in spans:
        labels[round(start / COLUMN) :] = value
    return labels


def speech_sound_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the labelled columns, and which share of those with a sound is recognised (scalars each).

    logits (batch, columns, CLASSES), labels (batch, columns) int64.
    """
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNKNOWN)
    heard = labels > SILENCE
    return loss, (logits.detach().argmax(dim=2) == labels)[heard].float().mean()


def word_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the frames within words, and which share of them is recognised (scalars each).

    logits (batch, frames, words), labels (batch, frames) int64. Without any labelled frame both are 0.
    """
    within = labels != UNKNOWN
    if not within.any():
        return logits.sum() * 0.0, logits.new_zeros(())
    chosen, classes = logits[within], labels[within]
    return F.cross_entropy(chosen, classes), (chosen.detach().argmax(dim=1) == classes).float().mean()
