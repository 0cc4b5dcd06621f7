"""Which tokens may come next: a range of the vocabulary, or a trie of the allowed sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

ROOT, NOWHERE = 0, -1
SPECIALS = 4  # ids 0 to 3: start, padding, end, unknown


class Constraint(Protocol):
    """Allowed tokens, which the probabilities are distributed over."""

    def allowed(self, tokens: Tensor, skip: Tensor, vocabulary: int) -> Tensor:
        """(rows, vocabulary) or (1, vocabulary) bool: what may follow tokens (rows, length) int64.

        The first `skip` (rows,) int64 tokens of a row were given to it, and so is the next one where `skip` is larger
        than the length.
        """
        ...


class TokenRange:
    """Tokens `first` to `last - 1`, as image codes or corners of boxes, and the special ones.

    With `specials_at_end` those come only after the last token that may be generated: a picture has no early end.
    """

    def __init__(self, first: int, last: int, *, specials_at_end: bool = False) -> None:
        if not SPECIALS <= first < last:
            raise ValueError(f"a range of tokens needs {SPECIALS} <= first < last, got {first} to {last}")
        self.first, self.last, self.specials_at_end = first, last, specials_at_end

    def allowed(self, tokens: Tensor, skip: Tensor, vocabulary: int) -> Tensor:
        """As `Constraint.allowed`, one row for all. `ValueError` for a range beyond the vocabulary."""
        if self.last > vocabulary:
            raise ValueError(f"the range ends at token {self.last}, the vocabulary at {vocabulary}")
        mask = torch.zeros(1, vocabulary, dtype=torch.bool, device=tokens.device)
        mask[:, :SPECIALS] = True
        mask[:, self.first : self.last] = True
        return mask


class Trie:
    """Sequences that share their beginnings, each followed by the end token.

    Edges stand in one sorted tensor as `node * base + token`, so that the tokens after a node are a slice of it and a
    step of many rows is one search. Node 0 is the root.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], end: int) -> None:
        """`sequences`: token ids without start and end. ValueError without any, for an empty one, and one that
        contains the end token."""
        children: list[dict[int, int]] = [{}]
        for sequence in sequences:
            if not sequence or end in sequence:
                raise ValueError(f"a sequence of a trie needs tokens other than the end {end}, got {list(sequence)}")
            node = ROOT
            for token in (*sequence, end):
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        if len(children) == 1:
            raise ValueError("a trie needs at least one sequence")
        self.end = end
        self.base = 1 + max(token for node in children for token in node)
        edges = sorted(
            (node * self.base + token, child) for node, after in enumerate(children) for token, child in after.items()
        )
        self.keys = torch.tensor([key for key, _ in edges])  # (edges,) ascending
        self.targets = torch.tensor([child for _, child in edges])  # (edges,)
        counts = torch.tensor([len(after) for after in children])
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])  # (nodes + 1,)

    def to(self, device: torch.device) -> Trie:
        """Moves the trie."""
        self.keys, self.targets, self.starts = (t.to(device) for t in (self.keys, self.targets, self.starts))
        return self

    def follow(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The nodes that tokens (rows,) lead to from nodes (rows,); -1 where there is none."""
        key = nodes * self.base + tokens
        place = torch.searchsorted(self.keys, key).clamp_(max=len(self.keys) - 1)
        known = (self.keys[place] == key) & (nodes != NOWHERE) & (tokens < self.base)
        return torch.where(known, self.targets[place], NOWHERE)

    def edges(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All edges out of nodes (rows,), none of -1: (row of each edge, number of the edge), both (edges,) int64."""
        first = self.starts[nodes.clamp(min=0)]
        counts = torch.where(nodes == NOWHERE, 0, self.starts[nodes.clamp(min=0) + 1] - first)
        rows = torch.arange(len(nodes), device=nodes.device).repeat_interleave(counts)
        before = counts.cumsum(0) - counts  # edges of the rows above
        return rows, torch.arange(len(rows), device=nodes.device) + (first - before)[rows]

    def children(self, nodes: Tensor, vocabulary: int) -> Tensor:
        """(rows, vocabulary) bool: the tokens after nodes (rows,), the end token alone after -1."""
        if self.base > vocabulary:
            raise ValueError(f"the trie has token {self.base - 1}, the vocabulary ends at {vocabulary}")
        mask = torch.zeros(len(nodes), vocabulary, dtype=torch.bool, device=nodes.device)
        rows, edges = self.edges(nodes)
        mask[rows, self.keys[edges] % self.base] = True
        mask[:, self.end] |= nodes == NOWHERE
        return mask

    def allowed(self, tokens: Tensor, skip: Tensor, vocabulary: int) -> Tensor:
        """As `Constraint.allowed`. `ValueError` for a token beyond the vocabulary."""
        nodes = torch.full_like(skip, ROOT)
        for place, column in enumerate(tokens.unbind(1)):
            nodes = torch.where(place < skip, nodes, self.follow(nodes, column))
        return self.children(nodes, vocabulary) | (tokens.shape[1] < skip)[:, None]
