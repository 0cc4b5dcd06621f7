"""Log-probabilities of all given answers, each input against every answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from one_peace.generation.constraints import ROOT, Trie
from one_peace.generation.decoder import Decoder


def score_candidates(
    begin: Callable[[], Decoder],
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    end: int,
    device: torch.device | None = None,
    max_rows: int = 1024,
) -> Tensor:
    """Log-probability of every candidate with its end token after each input's prompt, (inputs, candidates) float32.

    At each step the probabilities are distributed over what the candidates allow there (OFA's all-candidate
    inference); there is no normalisation by length. Beginnings that candidates share are computed once.

    Args:
        begin: a decoder at its beginning, a row per input; called once per group of candidates.
        prompts: for each input the tokens before the answer, at least the start token; lengths may differ.
        candidates: token ids without start and end.
        max_rows: rows at a time, which bounds the memory; at least the number of inputs are computed.
    """
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least its start token")
    trie = Trie(candidates, end).to(device or torch.device("cpu"))
    paths = [_path(trie, candidate) for candidate in candidates]
    order = sorted(range(len(candidates)), key=lambda index: list(candidates[index]))
    size = max(1, max_rows // len(prompts))
    scores = torch.full((len(prompts), len(trie.starts) - 1), -math.inf, device=device)  # (inputs, nodes)
    for first in range(0, len(order), size):
        wanted = torch.zeros(scores.shape[1], dtype=torch.bool)
        for index in order[first : first + size]:
            wanted[paths[index]] = True
        _walk(begin(), prompts, trie, wanted.to(trie.keys.device), scores)
    return scores[:, [path[-1] for path in paths]]


def best_of(scores: Tensor) -> list[int | None]:
    """The number of each input's likeliest candidate, by `score_candidates`; None for scores that are no numbers."""
    best = scores.argmax(dim=1).tolist()
    return [None if undefined else number for number, undefined in zip(best, scores.isnan().any(1), strict=True)]


def _path(trie: Trie, candidate: Sequence[int]) -> list[int]:
    """The nodes of a candidate, the last one after its end token."""
    node = torch.tensor([ROOT], device=trie.keys.device)
    nodes = []
    for token in (*candidate, trie.end):
        node = trie.follow(node, node.new_tensor([token]))
        nodes.append(int(node))
    return nodes


def _walk(decoder: Decoder, prompts: Sequence[Sequence[int]], trie: Trie, wanted: Tensor, scores: Tensor) -> None:
    """Goes down the trie level by level, a row per input and wanted node; fills `scores` at the ends."""
    device = trie.keys.device
    inputs = torch.arange(len(prompts), device=device)
    nodes = torch.full_like(inputs, ROOT)
    totals = torch.zeros(len(prompts), device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = max(len(prompt) for prompt in prompts)
    padded = torch.tensor([[*prompt, *[trie.end] * (longest - len(prompt))] for prompt in prompts], device=device)
    fed = int(lengths.min())
    logits = decoder.step(padded[:, :fed])
    while True:
        waiting = (fed < lengths[inputs]).nonzero().squeeze(1)  # rows inside their prompts
        rows, edges = trie.edges(torch.where(fed < lengths[inputs], -1, nodes))
        tokens, children = trie.keys[edges] % trie.base, trie.targets[edges]
        sums = totals[rows] + _shares(logits[rows, tokens].float(), rows, len(inputs))
        ends = tokens == trie.end
        scores[inputs[rows[ends]], children[ends]] = sums[ends]
        on = ~ends & wanted[children]
        parents = torch.cat([waiting, rows[on]])
        if not len(parents):
            return
        by_input = parents.argsort(stable=True)
        parents = parents[by_input]
        fresh = torch.cat([padded[inputs[waiting], min(fed, longest - 1)], tokens[on]])[by_input]
        nodes = torch.cat([nodes[waiting], children[on]])[by_input]
        totals = torch.cat([totals[waiting], sums[on]])[by_input]
        inputs = inputs[parents]
        decoder.reorder(parents)
        logits = decoder.step(fresh[:, None])
        fed += 1


def _shares(logits: Tensor, rows: Tensor, count: int) -> Tensor:
    """Log-softmax of logits (edges,) among those of the same row."""
    peak = logits.new_full((count,), -math.inf).scatter_reduce(0, rows, logits, "amax")[rows]
    sums = logits.new_zeros(count).index_add(0, rows, (logits - peak).exp())
    return logits - peak - sums.log()[rows]
