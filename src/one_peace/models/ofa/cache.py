"""Decoding token by token: what is kept between steps, so that a step computes one token and nothing twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.models.ofa.decoder import OfaDecoder
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.layers import KeysValues
from one_peace.nn.linear import linear

FIRST_CAPACITY = 32  # tokens; doubled when full, as far as there are positions


class OfaCache:
    """A decoder in the middle of its sequences (the protocol of `one_peace.generation`).

    It begins with one row per input. Keys and values of the input are computed once and kept once per input, however
    many rows (beams) read them; those of the rows' own tokens are kept in one tensor, of which `reorder` moves what
    changes place. Position biases depend on the kind of row alone and are computed once per capacity.
    """

    def __init__(self, decoder: OfaDecoder, tokens: Tensor, encoded: Encoded, codes: bool = False) -> None:
        """`tokens`: the token table (vocabulary, width). `codes`: whether the rows are image codes."""
        self.decoder, self.tokens, self.codes = decoder, tokens, codes
        self.encoded = encoded
        inputs = encoded.features.shape[0]
        self.inputs: list[KeysValues] = list(decoder.inputs(encoded))
        self.owners = torch.arange(inputs)  # of each row, on the CPU
        self.length = 0
        heads, width = decoder.config.heads, decoder.config.width
        shape = (len(decoder.layers), 2, inputs, heads, 0, width // heads)
        self.kept = encoded.features.new_empty(shape)
        self.self_bias: Tensor
        self.cross_bias: Tensor
        self.buckets: Tensor
        self.table = torch.cat(list(decoder.tables(codes).tables), dim=1)  # of all layers: one look-up a step
        self.longest = decoder.longest(codes)
        self._grow(self.longest if codes else min(FIRST_CAPACITY, self.longest))

    @property
    def rows(self) -> int:
        """Sequences that are being written."""
        return self.kept.shape[2]

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (rows, new) int64 -> logits of the token after them, (rows, vocabulary)."""
        if tokens.shape[0] != self.rows:
            raise ValueError(f"{tokens.shape[0]} rows of tokens for {self.rows} sequences")
        start, stop = self.length, self.length + tokens.shape[1]
        if stop > self.kept.shape[4]:
            self._grow(max(stop, min(2 * self.kept.shape[4], self.longest)))
        decoder = self.decoder
        x = decoder.embed(F.embedding(tokens, self.tokens), (self.codes,), None, start)
        biases = self._self_biases(start, stop)
        input_bias = self.cross_bias[:, :, start:stop]
        for index, layer in enumerate(decoder.layers):

            def earlier(k: Tensor, v: Tensor, index: int = index) -> KeysValues:
                self.kept[index, 0, :, :, start:stop], self.kept[index, 1, :, :, start:stop] = k, v
                return self.kept[index, 0, :, :, :stop], self.kept[index, 1, :, :, :stop]

            x = layer(x, biases[index], self.inputs[index], input_bias, earlier)
        self.length = stop
        return linear(decoder.norm(x[:, -1]), self.tokens)

    @torch.no_grad()
    def reorder(self, rows: Tensor) -> None:
        """Row i becomes a copy of the present row `rows[i]`; rows (new rows,) int64 may repeat, drop and permute.

        Rows of one input stand together, inputs in their order.
        """
        picked = rows.cpu()
        self._share_inputs(self.owners[picked])
        rows = rows.to(self.kept.device)
        if len(picked) != self.rows:
            kept = self.kept.new_empty(*self.kept.shape[:2], len(picked), *self.kept.shape[3:])
            kept[..., : self.length, :] = self.kept[..., : self.length, :].index_select(2, rows)
            self.kept = kept
            return
        moved = (picked != torch.arange(len(picked))).nonzero()[:, 0].to(self.kept.device)
        if len(moved):
            written = self.kept[..., : self.length, :]
            written.index_copy_(2, moved, written.index_select(2, rows[moved]))

    def _share_inputs(self, owners: Tensor) -> None:
        """Keeps the inputs that still have rows; a group of rows reads its input's keys and values where they are."""
        left, counts = owners.unique_consecutive(return_counts=True)
        if len(left) and (counts != counts[0]).any():
            left = owners  # rows of unequal groups each get the input as their own
        if not torch.equal(left, torch.arange(self.encoded.features.shape[0])):
            index = left.to(self.kept.device)
            self.encoded = self.encoded.rows(index)
            self.inputs = [(k[index], v[index]) for k, v in self.inputs]
            if self.cross_bias.shape[0] > 1:
                self.cross_bias = self.cross_bias[index]
        renumbered = torch.arange(len(left))
        self.owners = renumbered.repeat_interleave(len(owners) // max(1, len(left)))

    @torch.no_grad()
    def _grow(self, capacity: int) -> None:
        """Room for so many tokens, and the biases of their positions."""
        kept = self.kept.new_empty(*self.kept.shape[:4], capacity, self.kept.shape[5])
        kept[..., : self.length, :] = self.kept[..., : self.length, :]
        self.kept = kept
        decoder, codes = self.decoder, self.codes
        self.self_bias = decoder.self_bias(capacity, codes)
        self.cross_bias = decoder.cross_bias(capacity, codes, self.encoded)
        self.buckets = decoder.buckets(capacity, codes).to(self.table.device)

    def _self_biases(self, start: int, stop: int) -> Tensor:
        """The self-attention bias of the new tokens in every layer, (layers, 1, heads, new, stop)."""
        layers, heads = len(self.decoder.layers), self.decoder.config.heads
        relative = F.embedding(self.buckets[start:stop, :stop], self.table).permute(2, 0, 1)
        bias = relative.unflatten(0, (layers, 1, heads)) + self.self_bias[None, :, :, start:stop, :stop]
        if stop - start > 1:
            future = torch.ones(stop - start, stop, dtype=torch.bool, device=bias.device).triu(start + 1)
            bias = bias.masked_fill(future, -torch.inf)
        return bias
