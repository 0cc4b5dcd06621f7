"""A recurrent decoder whose logits depend on its input and on every token so far; small enough to enumerate."""

from __future__ import annotations

import torch
from torch import Tensor

START, PAD, END = 0, 1, 2


class ToyDecoder:
    def __init__(self, inputs: int, vocabulary: int = 8, seed: int = 0, width: int = 12) -> None:
        made = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocabulary, width, generator=made)
        self.mixing = torch.randn(width, width, generator=made) / width**0.5
        self.output = torch.randn(width, vocabulary, generator=made)
        self.state = torch.randn(inputs, width, generator=made)
        self.rows = [0]  # rows of every step, to see that no more are computed than needed

    def step(self, tokens: Tensor) -> Tensor:
        for column in tokens.unbind(1):
            self.state = torch.tanh(self.state @ self.mixing + self.embedding[column])
        self.rows.append(len(tokens))
        return self.state @ self.output

    def reorder(self, rows: Tensor) -> None:
        self.state = self.state[rows]


def log_probabilities(decoder: ToyDecoder, index: int, tokens: list[int], temperature: float = 1.0) -> list[float]:
    """Log-probabilities of tokens after the start, for one input, without any machinery."""
    fresh = ToyDecoder(0)
    fresh.__dict__ |= decoder.__dict__ | {"state": decoder.state[[index]], "rows": [0]}
    made, logits = [], fresh.step(torch.tensor([[START]]))
    for token in tokens:
        made.append(float((logits / temperature).log_softmax(1)[0, token]))
        logits = fresh.step(torch.tensor([[token]]))
    return made
