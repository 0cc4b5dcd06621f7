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


def label_sounds(sounds: Sequence[tuple[float, str]], seconds: float, columns: int) -> Tensor:
    """Which sound is heard in every column -> (columns,) int64, silence before the first one and after `seconds`.

    `sounds` are (second at which it begins, name in IPA), in their order; of a name of several letters each gets an
    equal share, a name without letters is silence, and letters that are none of `LETTERS` are `UNKNOWN`.
    """
    spans = []
    starts = [start for start, _ in sounds]
    for (start, name), end in zip(sounds, [*starts[1:], seconds], strict=False):
        letters = [c for c in unicodedata.normalize("NFD", name) if unicodedata.category(c) in ("Ll", "Lo", "Lu")]
        classes = [_CLASS_OF.get(letter, UNKNOWN) for letter in letters] or [SILENCE]
        spans += [(start + (end - start) * part / len(classes), value) for part, value in enumerate(classes)]
    return label_columns([(0.0, SILENCE), *spans, (seconds, SILENCE)], columns)


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


def word_loss(frames: Tensor, vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of the columns within words, and which share of them is recognised (scalars each).

    frames (batch, columns, width); vectors (words, width), one for each word; labels (batch, columns) int64. A column
    chooses among the words that the batch has; without any both are 0.
    """
    within = labels != UNKNOWN
    words, classes = labels[within].unique(return_inverse=True)
    if not len(words):
        return frames.sum() * 0.0, frames.new_zeros(())
    logits = frames[within] @ vectors[words].t()
    return F.cross_entropy(logits, classes), (logits.detach().argmax(dim=1) == classes).float().mean()
