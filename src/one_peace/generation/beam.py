"""Beam search over all inputs of a batch at once; with one beam it is greedy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from one_peace.generation.constraints import Constraint
from one_peace.generation.decoder import Decoder
from one_peace.generation.next_token import NextToken
from one_peace.generation.settings import GenerationSettings, Hypothesis

Candidate = tuple[float, int, int]
"""Sum of log-probabilities, token, row that it continues."""


def beam_search(
    decoder: Decoder,
    start: Tensor,
    settings: GenerationSettings,
    *,
    prefix: Tensor | None = None,
    constraint: Constraint | None = None,
) -> list[list[Hypothesis]]:
    """The best sequences for each input, best first; fewer than `settings.beams` where a constraint allows no more.

    Args:
        decoder: at its beginning, a row per input.
        start: (inputs, n) int64, the tokens before the generated ones; they are not scored.
        prefix: (inputs, m) int64, padded on the right: what sequences begin with. It is part of them and of their
        scores.
        constraint: what may be generated.
    Raises:
        ValueError: start or prefix of another shape, or a prefix with an end token in it.
    """
    rules = NextToken(settings, start, constraint, prefix)
    device = start.device
    finished = [Finished(settings, start.shape[1]) for _ in start]
    open_inputs = list(range(len(start)))
    inputs = torch.arange(len(start), device=device)  # (rows,): the input of each row
    tokens = start.new_empty(len(start), 0)  # (rows, generated)
    token_scores = torch.zeros(len(start), 0, device=device)  # (rows, generated)
    sums = torch.zeros(len(start), device=device)  # (rows,)
    last = settings.max_tokens if settings.force_end else settings.max_tokens - 1
    logits = decoder.step(start)
    for length in range(last + 1):
        scores = rules.log_probabilities(logits, tokens, inputs)
        # While every open input is still inside its prefix there is one way on: no beams are needed yet.
        width = 1 if length < int(rules.given[open_inputs].min()) else settings.beams
        ranked = _candidates(scores, sums, len(open_inputs), 2 * settings.beams)
        kept: list[Candidate] = []
        still_open = []
        texts: list[list[int]] | None = None
        for index, candidates in zip(open_inputs, ranked, strict=True):
            going_on = []
            for rank, candidate in enumerate(candidates):
                total, token, row = candidate
                if token != settings.end:
                    going_on.append(candidate)
                elif rank < settings.beams and total > -math.inf:
                    texts = tokens.tolist() if texts is None else texts
                    end_score = float(scores[row, token])
                    finished[index].add(total, [*texts[row], token], [*token_scores[row].tolist(), end_score], length)
            if not finished[index].done(candidates[0][0], length):
                still_open.append(index)
                # Where the vocabulary or a constraint leaves fewer ways than beams, dead rows keep the shape.
                dead = (-math.inf, settings.pad, candidates[0][2])
                kept += (going_on + [dead] * width)[:width]
        open_inputs = still_open
        if not open_inputs:
            break
        rows = torch.tensor([row for _, _, row in kept], device=device)
        chosen = torch.tensor([token for _, token, _ in kept], device=device)
        sums = torch.tensor([total for total, _, _ in kept], device=device)
        token_scores = torch.cat([token_scores[rows], scores[rows, chosen][:, None]], dim=1)
        tokens = torch.cat([tokens[rows], chosen[:, None]], dim=1)
        if length == last:
            break
        if not torch.equal(rows, torch.arange(len(inputs), device=device)):
            decoder.reorder(rows)
        inputs = inputs[rows]
        logits = decoder.step(chosen[:, None])
    for place, index in enumerate(open_inputs):  # without a forced end: what has not ended counts as it is
        for row in range(place * width, (place + 1) * width):
            if sums[row] > -math.inf:
                finished[index].add(float(sums[row]), tokens[row].tolist(), token_scores[row].tolist(), last + 1)
    return [one.best() for one in finished]


class Finished:
    """The finished hypotheses of one input: the first `beams`, or, where the search is exhaustive, the best."""

    def __init__(self, settings: GenerationSettings, start: int) -> None:
        self.settings, self.start = settings, start
        self.hypotheses: list[Hypothesis] = []

    def _normalised(self, total: float, length: int) -> float:
        return total / (self.start + length) ** self.settings.length_penalty

    def add(self, total: float, tokens: list[int], token_scores: list[float], length: int) -> None:
        """A hypothesis with `length` tokens before its end."""
        if self.settings.exhaustive or len(self.hypotheses) < self.settings.beams:
            self.hypotheses.append(Hypothesis(tokens, self._normalised(total, length), token_scores))
            self.hypotheses = self.best()[: self.settings.beams]

    def done(self, best_sum: float, length: int) -> bool:
        """Whether nothing that is open with `length + 1` tokens, at best with this sum, changes the result."""
        if len(self.hypotheses) < self.settings.beams:
            return False
        return not self.settings.exhaustive or self.hypotheses[-1].score >= self._normalised(best_sum, length + 1)

    def best(self) -> list[Hypothesis]:
        """What has ended, by descending score."""
        return sorted(self.hypotheses, key=lambda one: -one.score)


def _candidates(scores: Tensor, sums: Tensor, inputs: int, count: int) -> list[list[Candidate]]:
    """The best continuations of each input's rows, best first: at most `count` per input."""
    rows, vocabulary = scores.shape
    values, tokens = scores.topk(min(count, vocabulary), dim=1)  # more of a row cannot be among the best of its input
    totals, places = (sums[:, None] + values).view(inputs, -1).topk(min(count, values.numel() // inputs), dim=1)
    chosen = tokens.view(inputs, -1).gather(1, places)
    parents = places // values.shape[1] + (torch.arange(inputs, device=scores.device) * (rows // inputs))[:, None]
    columns = (totals.tolist(), chosen.tolist(), parents.tolist())
    return [list(zip(*triple, strict=True)) for triple in zip(*columns, strict=True)]
