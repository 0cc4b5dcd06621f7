"""BERT (arXiv 1810.04805) with cross-attention: encodes texts, fuses them with memories, predicts words.

Unlike a stock decoder it has no causal mask of its own: what a token sees is what the mask says, and without memory
the cross-attention is left out. `transformers` has no such model, so this one is ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.mico.config import TextConfig
from one_peace.nn.attention import attend
from one_peace.nn.feed_forward import PlainFeedForward
from one_peace.nn.linear import Linear, linear

EPS = 1e-12  # of all norms on the side of language
STD = 0.02
PUBLISHED_WIDTH = 768
PAD_ID = 0  # whose embedding gets no gradient where it is read, only where words are predicted
HIDDEN = -10000.0  # added to the logits of what a token must not see, as published

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each (inputs, heads, tokens, head_dim)."""

Memory = list[KeyValue]
"""What texts are read in the light of, as keys and values of each block."""


class Past:
    """Keys and values of the tokens so far, of one block, while a text is written.

    The last token of every extension is the mask token that asks for the next word: it sees and is not kept.
    """

    def __init__(self) -> None:
        self.kept: KeyValue | None = None

    def extend(self, keys: Tensor, values: Tensor) -> KeyValue:
        """All keys and values for tokens (rows, heads, new, head_dim) at the end; all but the last stay."""
        if self.kept is not None:
            keys, values = torch.cat([self.kept[0], keys], dim=2), torch.cat([self.kept[1], values], dim=2)
        self.kept = keys[:, :, :-1], values[:, :, :-1]
        return keys, values

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes the present row `rows[i]`."""
        if self.kept is not None:
            self.kept = self.kept[0].index_select(0, rows), self.kept[1].index_select(0, rows)


class SelfAttention(nn.Module):
    """Attention among the tokens of a text; all projections have a bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None, past: Past | None = None, queries: int | None = None) -> Tensor:
        """x (rows, tokens, width) -> (rows, tokens or the first `queries`, width)."""
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if past is not None:
            k, v = past.extend(k, v)
        if queries is not None:
            q, bias = q[:, :, :queries], None if bias is None else bias[..., :queries, :]
        bias = None if bias is None else bias.to(q.dtype)  # which is autocast's and not that of x
        return self.out(attend(q, k, v, bias).transpose(1, 2).reshape(rows, -1, width))


class CrossAttention(nn.Module):
    """Attention from the tokens of texts to a memory. One memory may serve several rows in a row."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)

    def project(self, memory: Tensor) -> KeyValue:
        """Memory (inputs, tokens, width) -> keys and values."""
        inputs, tokens, width = memory.shape
        both = self.key_value(memory).view(inputs, tokens, 2, self.heads, width // self.heads)
        keys, values = both.permute(2, 0, 3, 1, 4).unbind(0)
        return keys, values

    def forward(self, x: Tensor, memory: KeyValue) -> Tensor:
        """x (rows, tokens, width), rows a multiple of the inputs of the memory -> (rows, tokens, width)."""
        rows, tokens, width = x.shape
        inputs = memory[0].shape[0]
        # the rows of one input stand as one longer sequence before its keys, which are not repeated
        q = self.query(x).view(inputs, rows // inputs * tokens, self.heads, width // self.heads).transpose(1, 2)
        return self.out(attend(q, *memory).transpose(1, 2).reshape(rows, tokens, width))


class TextBlock(nn.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward network; the norm follows each sum."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width, eps=EPS)
        self.cross_attention = CrossAttention(config.width, config.heads)
        self.cross_attention_norm = nn.LayerNorm(config.width, eps=EPS)
        self.ffn = PlainFeedForward(config.width, config.ffn_width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        memory: KeyValue | None,
        past: Past | None = None,
        queries: int | None = None,
    ) -> Tensor:
        """x (rows, tokens, width) -> (rows, tokens or the first `queries`, width)."""
        branch = self.attention(x, bias, past, queries)
        x = self.attention_norm(self.dropout(branch) + (x if queries is None else x[:, :queries]))
        if memory is not None:
            x = self.cross_attention_norm(self.dropout(self.cross_attention(x, memory)) + x)
        y: Tensor = self.ffn_norm(self.dropout(self.ffn(x)) + x)
        return y


class WordPrediction(nn.Module):
    """From hidden states to logits over the vocabulary, by the table of word embeddings."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """hidden (..., width), words (vocabulary, width) -> (..., vocabulary)."""
        return linear(self.norm(F.gelu(self.dense(hidden))), words, self.bias)


class TextModel(nn.Module):
    """Word, position and type embeddings, blocks, and the prediction of words."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = _table(config.vocab_size, config.width, padding=PAD_ID)
        self.positions = _table(config.max_positions, config.width)
        self.types = _table(2, config.width)  # of which the model only ever uses the first
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.blocks = nn.ModuleList([TextBlock(config) for _ in range(config.layers)])
        self.prediction = WordPrediction(config.width, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)

    @torch.no_grad()
    def initialise(self) -> None:
        """BERT's initial values: normal with deviation 0.02, zero bias; of other widths as those of the tower."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(std=STD)
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=STD * math.sqrt(PUBLISHED_WIDTH / self.config.width))
                module.bias.zero_()

    def project_memory(self, memory: Tensor) -> Memory:
        """Memory (inputs, tokens, width) as keys and values of every block: done once, used by any number of texts."""
        projected = []
        for block in self.blocks:
            assert isinstance(block, TextBlock)
            projected.append(block.cross_attention.project(memory))
        return projected

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        memory: Memory | None = None,
        *,
        past: list[Past] | None = None,
        start: int = 0,
        cls_only: bool = False,
    ) -> Tensor:
        """Hidden states (rows, tokens, width) of token ids (rows, tokens) int64.

        Args:
            mask: what may be seen, 1 or 0: (rows or 1, keys) by all tokens alike, (rows or 1, tokens, keys) by each;
                None is everything.
            memory: of `project_memory`; each input serves the same number of rows, those of one input together.
            past: of each block, the tokens before these, the first of which then has position `start`.
            cls_only: the last block computes the first token alone -> (rows, 1, width).
        """
        length = start + tokens.shape[1]
        if length > self.config.max_positions:
            raise ValueError(f"{length} tokens: this model has positions for {self.config.max_positions}")
        x = self.words(tokens) + self.types.weight[0] + self.positions.weight[start:length]
        x = self.dropout(self.norm(x))
        bias = None
        if mask is not None:
            bias = (1.0 - mask.to(x.dtype)) * HIDDEN
            bias = bias[:, None, None] if mask.ndim == 2 else bias[:, None]
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(
                x,
                bias,
                None if memory is None else memory[number],
                None if past is None else past[number],
                1 if cls_only and number == last else None,
            )
        return x

    def predict(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) -> logits (..., vocabulary) of the word at each place, not of the next one."""
        logits: Tensor = self.prediction(hidden, self.words.weight)
        return logits


def _table(rows: int, width: int, padding: int | None = None) -> nn.Embedding:
    # given its values, a table does not draw its own: on the meta device that would import PyTorch's compiler
    return nn.Embedding(rows, width, padding_idx=padding, _weight=torch.zeros(rows, width))
