"""Words hidden and predicted again, each from what stands before it and from what the text is about.

A masked causal language model (UniLM, arXiv 1905.03197): a hidden word sees the partly hidden words before it, and its
own place predicts it, so the same network encodes texts and writes them.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # label of what is not predicted
PADDING = 0  # in vocabularies of word pieces
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of hidden words: shown as the mask token, as another word; the rest as they are
CAPTION_RATIO, ANSWER_RATIO = 0.6, 0.99


def hide_words(
    tokens: Tensor, ratio: float, draw: random.Random, *, mask_id: int, words: range
) -> tuple[Tensor, Tensor]:
    """Hides each token with probability `ratio`, never the first nor padding, at least one of each row.

    Args:
        tokens: (rows, length) int64.
        draw: the published order of draws from Python's generator: all rows' choices, then what each hidden token
            is shown as.
        mask_id: the mask token. words: the ids that stand in for a tenth of the hidden ones.

    Returns:
        Tokens as shown and labels, both (rows, length) int64; labels are the hidden tokens, `IGNORED` elsewhere.

    Raises:
        ValueError: the ratio is not above 0, or a row has nothing that could be hidden.
    """
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"the share of hidden words must be above 0 and at most 1, got {ratio}")
    candidates = tokens != PADDING
    candidates[:, 0] = False
    if not bool(candidates.any(dim=1).all()):
        raise ValueError("a text without a token after the first has nothing to hide")
    hidden: list[tuple[int, int]] = []
    for row, places in enumerate(candidates.tolist()):
        chosen: list[int] = []
        while not chosen:
            chosen = [place for place, may in enumerate(places) if may and draw.random() < ratio]
        hidden += [(row, place) for place in chosen]
    shown, labels = tokens.clone(), torch.full_like(tokens, IGNORED)
    for row, place in hidden:
        labels[row, place] = tokens[row, place]
        fate = draw.random()
        if fate < MASK_SHARE:
            shown[row, place] = mask_id
        elif fate < MASK_SHARE + RANDOM_SHARE:
            shown[row, place] = draw.choice(words)
    return shown, labels


def causal_mask(mask: Tensor) -> Tensor:
    """What each token sees of a text: mask (rows, length), 1 or 0 -> (rows, length, length), itself and before."""
    length = mask.shape[1]
    return mask[:, None] * torch.ones(length, length, dtype=mask.dtype, device=mask.device).tril()


def answer_mask(question: Tensor, answer: Tensor) -> Tensor:
    """What each token sees of a question and its answer, masks (rows, q) and (rows, a) -> (rows, q + a, q + a).

    The question sees itself both ways, but not the answer; the answer sees the question, and itself up to each word.
    """
    length = question.shape[1]
    seen = torch.cat([question, answer], dim=1)[:, None].repeat(1, length + answer.shape[1], 1)
    seen[:, :length, length:] = 0
    seen[:, length:, length:] = causal_mask(answer)
    return seen


def hidden_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of logits (words, vocabulary) with labels (words,)."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)
