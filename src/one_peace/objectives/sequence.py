"""The loss of sequence-to-sequence training: cross entropy of target tokens with OFA's additions (arXiv 2202.03052).

Label smoothing over what is allowed, the tokens with the largest losses left out, the encouraging loss, and R-Drop
(arXiv 2106.14448).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from one_peace.configuration import within
from one_peace.objectives.encouraging import encouragement
from one_peace.objectives.smoothing import smoothed

SPECIALS = 4  # ids 0 to 3 stay possible under a range: start, padding, end, unknown


@dataclass(frozen=True)
class SequenceLossSettings:
    """Which additions are used.

    smoothing: probability spread over the other allowed tokens. drop_worst: share of the tokens that is left out,
    those with the largest losses, in updates after `drop_worst_after`; drop_best, drop_best_after: likewise those with
    the smallest, with the encouraging loss only. encourage: from which probability on the encouraging bonus grows
    linearly (1: nowhere); None is without it. consistency: weight of R-Drop, for batches whose second half repeats the
    first. skip_first: target positions at the beginning that are not trained. skip_end: the end token is not trained.
    """

    smoothing: float = 0.0
    drop_worst: float = 0.0
    drop_worst_after: int = 0
    drop_best: float = 0.0
    drop_best_after: int = 0
    encourage: float | None = None
    consistency: float = 0.0
    skip_first: int = 0
    skip_end: bool = False

    def __post_init__(self) -> None:
        within(self, "loss", smoothing="[0, 1)", drop_worst="[0, 1)", drop_best="[0, 1)", encourage="(0, 1]")
        if self.drop_best and self.encourage is None:
            raise ValueError("drop_best belongs to the encouraging loss: set encourage")


@dataclass(frozen=True)
class SequenceLoss:
    """Sums over the trained tokens: what is minimised, and the plain negative log-likelihood; how many they are.

    `total / tokens` is the mean that updates follow. `tokens` counts those that were kept.
    """

    total: Tensor
    nll: Tensor
    tokens: int


def sequence_loss(
    logits: Tensor,
    target: Tensor,
    settings: SequenceLossSettings,
    *,
    pad: int,
    end: int,
    allowed: Tensor | None = None,
    token_range: tuple[int, int] | None = None,
    confidence: Tensor | None = None,
    update: int = 0,
) -> SequenceLoss:
    """Loss of logits (batch, length, vocabulary) for target (batch, length) int64, padded with `pad`; in float32.

    Args:
        allowed: (batch, length, vocabulary) bool, the tokens that the probabilities are distributed over.
        token_range: the same by first and last + 1 token; the first four ids stay possible.
        confidence: (batch,) factors of the log-probabilities of each row.
        update: number of the update, for what begins later.
    Raises:
        ValueError: allowed and token_range together, or an odd batch with `consistency`.
    """
    if allowed is not None and token_range is not None:
        raise ValueError("give the allowed tokens either one by one or as a range")
    if settings.consistency and len(target) % 2:
        raise ValueError(f"consistency compares two halves of a batch, which has {len(target)} rows")
    trained = target != pad
    trained[:, : settings.skip_first] = False
    if settings.skip_end:
        trained &= target != end
    kept = trained.flatten().nonzero().squeeze(1)
    target = target.flatten()[kept]
    rows = logits.flatten(0, 1)[kept].float()  # (tokens, vocabulary)
    if allowed is not None:
        allowed = allowed.flatten(0, 1)[kept]
    elif token_range is not None:
        allowed = range_mask(*token_range, rows.shape[1], rows.device)
    if allowed is not None:
        rows = rows.masked_fill(~allowed, -math.inf)
    log_probs = rows.log_softmax(dim=1)
    if confidence is not None:
        log_probs = log_probs * confidence[kept // trained.shape[1], None]
        if allowed is not None:  # a confidence of 0 would make NaN of what is impossible
            log_probs = log_probs.masked_fill(~allowed, -math.inf)
    return token_loss(log_probs, target, settings, allowed=allowed, update=update)


def token_loss(
    log_probs: Tensor, target: Tensor, settings: SequenceLossSettings, *, allowed: Tensor | None = None, update: int = 0
) -> SequenceLoss:
    """`sequence_loss` of single tokens: log_probs (tokens, vocabulary), target (tokens,), both without padding; allowed
    (tokens or 1, vocabulary) bool."""
    nll = -log_probs.gather(1, target[:, None]).squeeze(1)
    losses = smoothed(log_probs, nll, settings.smoothing, allowed)
    places = torch.arange(len(target), device=target.device)
    if settings.drop_worst > 0 and update > settings.drop_worst_after:
        places = _keep(losses, places, settings.drop_worst, largest=False, paired=settings.consistency > 0)
    if settings.drop_best > 0 and update > settings.drop_best_after:
        places = _keep(losses, places, settings.drop_best, largest=True, paired=settings.consistency > 0)
    total = losses[places].sum()
    if settings.encourage is not None:
        total = total + encouragement(log_probs[places], target[places], settings.smoothing, settings.encourage)
    if settings.consistency:
        compared = log_probs if allowed is None else log_probs.masked_fill(~allowed, -math.inf)
        total = total + settings.consistency * divergence(*compared[places].chunk(2))
    return SequenceLoss(total, nll[places].sum(), len(places))


def kept_tokens(tokens: int, settings: SequenceLossSettings, update: int) -> int:
    """How many of so many trained tokens a loss keeps in an update: its `tokens`, before it is computed."""
    pairs = 2 if settings.consistency > 0 else 1
    kept = tokens // pairs
    if settings.drop_worst > 0 and update > settings.drop_worst_after:
        kept = int(kept * (1 - settings.drop_worst))
    if settings.drop_best > 0 and update > settings.drop_best_after:
        kept = int(kept * (1 - settings.drop_best))
    return pairs * kept if kept != tokens // pairs else tokens


def range_mask(first: int, last: int, vocabulary: int, device: torch.device | None = None) -> Tensor:
    """(1, vocabulary) bool: the special tokens, and `first` to `last - 1`."""
    if not SPECIALS <= first < last <= vocabulary:
        raise ValueError(f"a range of tokens needs {SPECIALS} <= first < last <= {vocabulary}, got {first} to {last}")
    ids = torch.arange(vocabulary, device=device)
    return ((ids < SPECIALS) | ((ids >= first) & (ids < last)))[None]


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Half of KL(p, q) + KL(q, p), summed over rows and classes; log-probabilities (rows, classes).

    What is impossible in both counts for nothing (the published code gives NaN).
    """
    impossible = torch.isneginf(first) & torch.isneginf(second)
    p, q = first.masked_fill(impossible, 0.0), second.masked_fill(impossible, 0.0)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum()


def _keep(losses: Tensor, places: Tensor, dropped: float, *, largest: bool, paired: bool) -> Tensor:
    """Of `places` those whose losses are largest, or smallest; in pairs both halves follow the first."""
    half = len(places) // 2 if paired else len(places)
    count = int(half * (1 - dropped))
    kept = losses[places[:half]].topk(count, largest=largest).indices
    return torch.cat([places[kept], places[half:][kept]]) if paired else places[kept]
