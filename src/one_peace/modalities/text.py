"""Text: byte-level BPE tokens, learned positions, logarithmic relative bias, whole-word masking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from one_peace.configuration import within
from one_peace.errors import InputError
from one_peace.modalities.base import Adapter, Embedded, Example, Modality, Processor, SequencePositions
from one_peace.modalities.tokenization import PAD_ID, Tokenizer
from one_peace.nn.initialization import truncated_normal_
from one_peace.nn.relative_position import RelativeBias, sequence_buckets, sequence_rows


@dataclass(frozen=True)
class TextConfig:
    """`max_tokens` counts word pieces, without cls and end of sentence; longer texts are cut there."""

    vocab_size: int = 50264
    max_positions: int = 514
    bias_buckets: int = 256
    max_tokens: int = 70

    def __post_init__(self) -> None:
        within(self, "modalities.text", **dict.fromkeys(vars(self), "[1, inf)"))


class TextAdapter(Adapter):
    """Token table + position table + relative bias (paper, section 3.1). Inputs: `tokens` (batch, length) int64."""

    def __init__(self, config: TextConfig, width: int, heads: int, tables: int) -> None:
        super().__init__(width)
        self.bias_buckets = config.bias_buckets
        # Given its values, the table does not draw its own: on the meta device that would import PyTorch's compiler.
        self.tokens = nn.Embedding(
            config.vocab_size, width, _weight=truncated_normal_(torch.empty(config.vocab_size, width))
        )
        with torch.no_grad():
            self.tokens.weight[PAD_ID].zero_()
        self.positions = SequencePositions(config.max_positions, width)
        self.bias = RelativeBias(sequence_rows(config.bias_buckets), heads, tables)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        tokens = inputs["tokens"]
        return Embedded(self.tokens(tokens), tokens == PAD_ID, (tokens.shape[1],))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        positions = self.positions(layout)
        return positions if kept is None else positions[kept]

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        return self.bias(sequence_buckets(self.bias_buckets, layout[0] + 1), kept)


class TextProcessor(Processor):
    """Lowercases as the published model does, tokenises and ends with the end-of-sentence token.

    Examples: `tokens` (length,) int64.
    """

    def __init__(self, config: TextConfig, tokenizer: Tokenizer) -> None:
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model only {config.vocab_size}")
        self.config = config
        self.tokenizer = tokenizer

    def __call__(self, source: Any) -> Example:
        return self.of_tokens(self.tokenizer.encode(source))

    def of_tokens(self, tokens: Sequence[int]) -> Example:
        """An example of token ids. `InputError` for more of them than there are positions."""
        longest = self.config.max_positions - 1  # beside cls
        if len(tokens) > longest:
            raise InputError("text", f"has {len(tokens)} tokens, of which {longest} can be read")
        return {"tokens": torch.tensor(tokens, dtype=torch.int64, device="cpu")}

    def length(self, example: Example) -> int:
        return example["tokens"].shape[0]

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        tokens = [e["tokens"] for e in examples]
        return {"tokens": nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=PAD_ID)}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        """Whole words; single tokens away from an earlier mask when `avoid` is given (published rules)."""
        words = example["tokens"][:-1]  # the end of sentence is never hidden
        if avoid is None:
            masked = whole_word_mask(words, self.tokenizer.whole_word_starts, ratio, generator)
        else:
            masked = avoiding_token_mask(avoid[:-1], ratio, generator)
        return torch.cat([masked, masked.new_zeros(1)])

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder / "tokenizer.json")


def whole_word_mask(tokens: Tensor, starts: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Hides `ceil(words * ratio)` whole words of tokens (length,) -> (length,) bool.

    `starts` (vocabulary,) is non-zero for pieces that begin a word.
    """
    is_start = starts.to(torch.bool)[tokens]
    positions = is_start.nonzero().squeeze(1)
    count = math.ceil(len(positions) * ratio)
    chosen = positions[torch.randperm(len(positions), generator=generator)[:count]]
    word = is_start.cumsum(0)  # number of the word that a token belongs to; 0 before the first start
    return torch.isin(word, word[chosen])


def avoiding_token_mask(avoid: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Hides `int(length * ratio)` tokens, those of `avoid` (length,) bool last -> (length,) bool."""
    length = avoid.shape[0]
    noise = torch.randn(length, generator=generator).masked_fill(avoid, -math.inf)
    masked = torch.zeros(length, dtype=torch.bool)
    masked[noise.topk(int(length * ratio)).indices] = True
    return masked


class Text(Modality):
    """The text modality."""

    name = "text"
    Config = TextConfig
    endings = ".txt .md .markdown .html .htm"

    def adapter(self, config: TextConfig, width: int, heads: int, tables: int) -> TextAdapter:
        return TextAdapter(config, width, heads, tables)

    def decoder_positions(self, config: TextConfig, width: int) -> SequencePositions:
        return SequencePositions(config.max_positions, width)

    def processor(self, config: TextConfig, folder: Path | None) -> TextProcessor:
        if folder is None:
            raise ValueError("a text processor needs the folder that holds tokenizer.json")
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json", max_tokens=config.max_tokens)
        return TextProcessor(config, tokenizer)

    def preprocessing(self, config: TextConfig) -> dict[str, Any]:
        return {"lowercase": True, "max_tokens": config.max_tokens}
