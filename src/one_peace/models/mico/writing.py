"""Captions and answers: the text model as a decoder that fills in the mask token at the end of a text.

The published code computes the whole text again for every word. Here keys and values of the words so far are kept,
which changes nothing: a word sees only what stands before it, never the mask token. Those of the memory are computed
once per input, whatever the number of beams.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from one_peace.generation.beam import beam_search
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings, Hypothesis
from one_peace.modalities.wordpiece import WordPieces
from one_peace.models.mico.text import PAD_ID, Memory, Past, TextModel
from one_peace.objectives.masked_words import answer_mask

CAPTION_PENALTY, ANSWER_PENALTY = 0.6, 1.0  # exponents of the length
ANSWER_TOKENS = 10


class TextDecoder:
    """A `one_peace.generation` decoder: a row per input of the memory at its beginning."""

    def __init__(self, text: TextModel, memory: Memory, mask_id: int, question: Tensor | None = None) -> None:
        """`question` (inputs, length), 1 or 0: of the first tokens of every row, which can be seen."""
        inputs = memory[0][0].shape[0]
        device = memory[0][0].device
        self.text, self.memory, self.mask_id = text, memory, mask_id
        self.past = [Past() for _ in text.blocks]
        self.length = 0
        self.seen = torch.ones(inputs, 0, dtype=torch.int64, device=device) if question is None else question
        self.asked = self.seen.shape[1]
        self.owner = torch.arange(inputs, device=device)  # (rows,): the input of each row
        self.even = True  # whether all inputs have as many rows

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (rows, new) and gives the logits (rows, vocabulary) of the token after them."""
        rows, new = tokens.shape
        asking = torch.cat([tokens, tokens.new_full((rows, 1), self.mask_id)], dim=1)
        if self.length == 0:
            if new < self.asked:
                raise ValueError(f"the first step must hold the whole question, {self.asked} tokens, got {new}")
            mask = answer_mask(self.seen, self.seen.new_ones(rows, new + 1 - self.asked))
        else:
            before = self.seen.new_ones(rows, self.length - self.asked)
            earlier = torch.cat([self.seen, before], dim=1)[:, None].expand(-1, new + 1, -1)
            own = self.seen.new_ones(new + 1, new + 1).tril().expand(rows, -1, -1)
            mask = torch.cat([earlier, own], dim=2)
        memory = self.memory if self.even else [(k[self.owner], v[self.owner]) for k, v in self.memory]
        hidden = self.text(asking, mask, memory, past=self.past, start=self.length)
        self.length += new
        return self.text.predict(hidden[:, -1])

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes a copy of the present row `rows[i]`; rows of one input stand together."""
        for past in self.past:
            past.reorder(rows)
        self.seen, self.owner = self.seen[rows], self.owner[rows]
        left, self.owner, counts = torch.unique_consecutive(self.owner, return_inverse=True, return_counts=True)
        if len(left) < len(self.memory[0][0]):  # inputs that are done
            self.memory = [(keys[left], values[left]) for keys, values in self.memory]
        self.even = bool((counts == counts[0]).all())


@torch.no_grad()
def write_captions(
    text: TextModel,
    memory: Memory,
    pieces: WordPieces,
    *,
    max_tokens: int,
    beams: int = 3,
    samples: int = 0,
    top_k: int = 10,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Captions of each input of a memory, best first: of a beam search, or with `samples` so many drawn by `generator`,
    from which each input takes a seed of its own.

    Raises:
        ValueError: a setting that cannot be, or samples without a generator.
    """
    if not isinstance(samples, Integral) or samples < 0:
        raise ValueError(f"samples must be a whole number, 0 for a beam search, got {samples!r}")
    if samples and generator is None:
        raise ValueError("samples are drawn by a generator, and there is none")
    start = torch.full((memory[0][0].shape[0], 1), pieces.first_id, device=memory[0][0].device)
    decoder = TextDecoder(text, memory, pieces.mask_id)
    settings = search_settings(pieces.last_id, max_tokens, samples or beams, CAPTION_PENALTY)
    settings = settings.within(text.config.max_positions - start.shape[1])
    if generator is not None and samples:
        seeds = [int(torch.randint(2**62, (), generator=generator, device=generator.device)) for _ in start]
        generators = [torch.Generator(start.device).manual_seed(seed) for seed in seeds]
        return sample(decoder, start, settings, generators, top_k=top_k)
    return beam_search(decoder, start, settings)


@torch.no_grad()
def write_answers(
    text: TextModel,
    memory: Memory,
    questions: Tensor,
    pieces: WordPieces,
    *,
    max_tokens: int = ANSWER_TOKENS,
    beams: int = 3,
) -> list[list[Hypothesis]]:
    """Answers to questions (inputs, length), padded on the right, one for each input of the memory; best first.

    As published, the length that scores are divided by counts the question with its padding.
    """
    start = torch.cat([questions, torch.full_like(questions[:, :1], pieces.first_id)], dim=1)
    decoder = TextDecoder(text, memory, pieces.mask_id, (questions != PAD_ID).long())
    settings = search_settings(pieces.last_id, max_tokens, beams, ANSWER_PENALTY)
    return beam_search(decoder, start, settings.within(text.config.max_positions - start.shape[1]))


def search_settings(last_id: int, max_tokens: int, beams: int, length_penalty: float) -> GenerationSettings:
    """Settings of a search as the published one: it goes on while an open beam could still win."""
    return GenerationSettings(
        end=last_id,
        pad=PAD_ID,
        max_tokens=max_tokens,
        min_tokens=0,
        beams=beams,
        length_penalty=length_penalty,
        force_end=False,
        exhaustive=beams > 1,  # a single beam ends where it ends
    )
