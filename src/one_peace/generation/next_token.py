"""From logits to the log-probabilities that a search chooses by: temperature, constraints, what is forbidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from one_peace.generation.constraints import SPECIALS, Constraint, TokenRange, Trie
from one_peace.generation.settings import GenerationSettings


class NextToken:
    """The rules for the next token, in the published order: constraints change what probabilities are distributed over;
    padding, lengths and repetitions only forbid, without giving what they forbid to the rest."""

    def __init__(
        self, settings: GenerationSettings, start: Tensor, constraint: Constraint | None, prefix: Tensor | None
    ) -> None:
        """`start` (inputs, n) int64 comes before all tokens. `prefix` (inputs, m) int64, padded on the right: tokens
        that sequences begin with, scored as if they had been chosen. `min_tokens` holds from token m on, for all."""
        if start.ndim != 2 or not start.shape[1]:
            raise ValueError(f"start is (inputs, at least 1 token), got {tuple(start.shape)}")
        prefix = start.new_empty(len(start), 0) if prefix is None else prefix
        if prefix.ndim != 2 or len(prefix) != len(start) or prefix.shape[1] > settings.max_tokens:
            wanted = f"({len(start)}, at most {settings.max_tokens})"
            raise ValueError(f"prefix is {wanted} for these inputs and this max_tokens, got {tuple(prefix.shape)}")
        given = prefix != settings.pad
        if bool((prefix == settings.end).any()) or bool((given[:, 1:] & ~given[:, :-1]).any()):
            raise ValueError("a prefix must not contain the end token, nor padding before its last token")
        constraint = constraint.to(start.device) if isinstance(constraint, Trie) else constraint
        self.settings, self.start, self.constraint, self.prefix = settings, start, constraint, prefix
        self.given = given.sum(dim=1)  # (inputs,): length of each prefix

    def log_probabilities(self, logits: Tensor, tokens: Tensor, inputs: Tensor) -> Tensor:
        """Log-probabilities (rows, vocabulary) float32 of the token after tokens (rows, length).

        `logits` may be overwritten; `inputs` (rows,) says which input a row belongs to. Where nothing may
        follow, or the logits are not finite numbers, the row is -inf throughout.
        """
        settings, length = self.settings, tokens.shape[1]
        scores = logits.float()
        if settings.temperature != 1.0:
            scores = scores.div_(settings.temperature)
        if self.constraint is not None:
            allowed = self.constraint.allowed(tokens, self.given[inputs], scores.shape[1])
            scores = scores.masked_fill_(~allowed, -math.inf)
        # Not log_softmax: the norm of each row is enough, and vocabularies are large. It is finite, so that rows where
        # a constraint allows nothing become -inf and not nan.
        norm = scores.logsumexp(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
        scores = scores.sub_(norm)
        if not bool((finite := norm.squeeze(1).isfinite()).all()):
            scores[~finite] = -math.inf  # published too: of logits that are no numbers nothing follows
        scores[:, settings.pad] = -math.inf
        if settings.unknown is not None:
            scores[:, settings.unknown] -= settings.unknown_penalty
        last = length >= settings.max_tokens
        if isinstance(self.constraint, TokenRange) and self.constraint.specials_at_end and not last:
            scores[:, :SPECIALS] = -math.inf
        if last:
            end = scores[:, settings.end].clone()
            scores.fill_(-math.inf)[:, settings.end] = end
        if length < self.prefix.shape[1] and not last:
            self._keep_prefix(scores, self.prefix[inputs, length])
        elif length < settings.min_tokens:  # as published: not before the longest prefix ends
            scores[:, settings.end] = -math.inf
        if settings.no_repeat_ngram:
            forbid_repetition(scores, torch.cat([self.start[inputs], tokens], dim=1), settings.no_repeat_ngram)
        return scores

    def _keep_prefix(self, scores: Tensor, given: Tensor) -> None:
        """Only the given token keeps its log-probability, in rows that have one."""
        rows = (given != self.settings.pad).nonzero().squeeze(1)
        kept = scores[rows, given[rows]]
        scores[rows] = -math.inf
        scores[rows, given[rows]] = kept


def forbid_repetition(scores: Tensor, sequence: Tensor, n: int) -> None:
    """-inf for each token that would complete n tokens which occur already in sequence (rows, length), start
    included."""
    if n < 1 or sequence.shape[1] < n:
        return
    windows = sequence.unfold(1, n, 1)  # (rows, places, n)
    begun = sequence[:, None, sequence.shape[1] - n + 1 :]  # (rows, 1, n - 1)
    rows, places = (windows[..., :-1] == begun).all(dim=2).nonzero(as_tuple=True)
    scores[rows, windows[rows, places, -1]] = -math.inf
