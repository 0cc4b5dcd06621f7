"""Sequences drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from one_peace.generation.constraints import Constraint
from one_peace.generation.decoder import Decoder
from one_peace.generation.next_token import NextToken
from one_peace.generation.settings import GenerationSettings, Hypothesis


def sample(
    decoder: Decoder,
    start: Tensor,
    settings: GenerationSettings,
    generators: Sequence[torch.Generator],
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    prefix: Tensor | None = None,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """`settings.beams` independent samples for each input, by descending score; fewer where one comes to a place that
    nothing may follow.

    Drawn from the `top_k` most probable tokens (0: all), and of those from the fewest that have probability `top_p`
    together. Scores are log-probabilities before that cut. Each input draws from its own of `generators`, so that what
    comes of it does not depend on the others. The other arguments are those of `beam_search`.
    """
    if top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"top_k must not be negative and top_p in (0, 1], got {top_k} and {top_p}")
    rules = NextToken(settings, start, constraint, prefix)
    inputs = torch.arange(len(start), device=start.device)
    tokens = start.new_empty(len(start), 0)
    token_scores = torch.zeros(len(start), 0, device=start.device)
    ended = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    logits = decoder.step(start)
    steps = settings.max_tokens + settings.force_end
    for length in range(steps):
        scores = rules.log_probabilities(logits, tokens, inputs)
        draws = settings.beams if length == 0 else 1
        weights = _weights(scores, top_k, top_p, settings.end)
        chosen = torch.cat(
            [
                torch.multinomial(own, draws, replacement=True, generator=generator).flatten()
                for own, generator in zip(weights.split(len(weights) // len(start)), generators, strict=True)
            ]
        )
        if length == 0:
            rows = inputs.repeat_interleave(settings.beams)
            decoder.reorder(rows)
            inputs, tokens, token_scores = inputs[rows], tokens[rows], token_scores[rows]
            scores, ended = scores[rows], ended[rows]
        gained = scores.gather(1, chosen[:, None]).squeeze(1)
        chosen = torch.where(ended, settings.pad, chosen)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        token_scores = torch.cat([token_scores, torch.where(ended, 0.0, gained)[:, None]], dim=1)
        ended |= chosen == settings.end
        if bool(ended.all()) or length == steps - 1:
            break
        logits = decoder.step(chosen[:, None])
    return _hypotheses(tokens, token_scores, settings, start.shape[1])


def _weights(scores: Tensor, top_k: int, top_p: float, end: int) -> Tensor:
    """What tokens are drawn by (rows, vocabulary), zero for what may not be drawn. Rows that nothing may follow draw
    the end token."""
    if top_k and top_k < scores.shape[1]:
        values, places = scores.topk(top_k, dim=1)
        scores = torch.full_like(scores, -math.inf).scatter_(1, places, values)
    if top_p < 1:
        values, places = scores.sort(dim=1, descending=True)
        before = values.exp().cumsum(dim=1) - values.exp()  # of the more probable ones
        scores = torch.full_like(scores, -math.inf).scatter_(1, places, values.masked_fill(before >= top_p, -math.inf))
    peak = scores.amax(dim=1, keepdim=True)
    # Over the likeliest one: what is left beside a forbidden token may have probabilities below those of float32.
    weights = (scores - peak).exp()
    dead = peak.squeeze(1) == -math.inf
    weights[dead] = 0.0
    weights[dead, end] = 1.0
    return weights


def _hypotheses(
    tokens: Tensor, token_scores: Tensor, settings: GenerationSettings, start: int
) -> list[list[Hypothesis]]:
    groups: list[list[Hypothesis]] = []
    for number, (row, scores) in enumerate(zip(tokens.tolist(), token_scores.tolist(), strict=True)):
        if number % settings.beams == 0:
            groups.append([])
        length = row.index(settings.end) + 1 if settings.end in row else len(row)
        # Like a beam's: start and tokens without the end.
        counted = start + length - (settings.end in row)
        score = sum(scores[:length]) / counted**settings.length_penalty
        if score > -math.inf:  # otherwise nothing could follow, and the end stands in for it
            groups[-1].append(Hypothesis(row[:length], score, scores[:length]))
    return [sorted(group, key=lambda one: -one.score) for group in groups]
