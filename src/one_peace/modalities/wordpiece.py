"""Text to token ids as BERT has them: word pieces of a vocabulary, between a first and a last token.

In a text, the names of special tokens (`[MASK]`) are those tokens, as in the published code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

from one_peace.modalities.base import Example, Processor
from one_peace.modalities.tokenization import checked_text

PAD, UNKNOWN, FIRST, LAST, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
FILE, VOCABULARY = "tokenizer.json", "vocab.txt"
_REACH = 64  # characters for a token that a text is first cut to
_BLANK = re.compile(r"\s")
_JOINED = [(f" {sign}", sign) for sign in ".?!,"] + [(" ' ", "'")]
_JOINED += [(f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")]


class WordPieces:
    """Texts to ids and back. Picklable."""

    def __init__(self, table: str) -> None:
        """`table`: the text of a tokenizer.json. ValueError if it is not one of word pieces with [PAD] at 0."""
        try:
            self._table = tokenizers.Tokenizer.from_str(table)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"not a tokenizer.json: {error}") from error
        found = {name: self._table.token_to_id(name) for name in (PAD, UNKNOWN, FIRST, LAST, MASK)}
        ids = {name: number for name, number in found.items() if number is not None}
        if len(ids) < len(found) or ids[PAD] != 0:
            raise ValueError(f"a vocabulary of word pieces has {PAD} at 0 and {UNKNOWN}, {FIRST}, {LAST}, {MASK}")
        self._table.no_truncation()
        self._table.no_padding()
        self.first_id, self.last_id, self.mask_id = ids[FIRST], ids[LAST], ids[MASK]

    @classmethod
    def from_vocabulary(cls, path: str | Path) -> WordPieces:
        """The published form: a file with a piece per line, read as bert-base-uncased reads texts."""
        pieces = Path(path).read_text(encoding="utf-8").split("\n")
        vocabulary = {piece.rstrip("\r"): row for row, piece in enumerate(pieces) if piece}
        table = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
        table.normalizer = normalizers.BertNormalizer(lowercase=True)
        table.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        table.decoder = decoders.WordPiece(cleanup=False)
        table.add_special_tokens([name for name in (PAD, UNKNOWN, FIRST, LAST, MASK) if name in vocabulary])
        return cls(table.to_str())

    @classmethod
    def find(cls, place: Path) -> WordPieces | None:
        """The vocabulary at a path: a tokenizer.json, a vocab.txt, or a folder with one of them."""
        for path in [place] if place.is_file() else [place / FILE, place / VOCABULARY]:
            if path.is_file():
                return cls.from_vocabulary(path) if path.suffix == ".txt" else cls(path.read_text(encoding="utf-8"))
        return None

    @property
    def vocab_size(self) -> int:
        return self._table.get_vocab_size()

    def to_json(self) -> str:
        return self._table.to_str()

    def save(self, folder: Path) -> None:
        """Writes a tokenizer.json into a folder."""
        (folder / FILE).write_text(self.to_json(), encoding="utf-8")

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """At most `max_tokens` ids with the first and the last token; what is longer is cut before the last one."""
        room = max_tokens - 2
        return [self.first_id, *self._pieces(checked_text(text), room)[:room], self.last_id]

    def _pieces(self, text: str, room: int) -> list[int]:
        """The first pieces of a text: all of them, or at least `room`. A whole book may come in here."""
        reach = _REACH * room
        while True:
            blank = _BLANK.search(text, reach)
            ids = self._table.encode(text[: blank.start()] if blank else text, add_special_tokens=False).ids
            if not blank or len(ids) >= room:
                return ids
            reach *= 4

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens; signs stand by their words, as people write them."""
        text = self._table.decode([int(i) for i in ids], skip_special_tokens=True)
        for apart, joined in _JOINED:
            text = text.replace(apart, joined)
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return WordPieces, (self.to_json(),)

    def __repr__(self) -> str:
        return f"WordPieces(vocab_size={self.vocab_size})"


def train_word_pieces(texts: Iterable[str], size: int) -> WordPieces:
    """A vocabulary of at most `size` pieces made of the words of some texts, read as bert-base-uncased reads texts.

    The same texts give the same vocabulary.
    """
    table = tokenizers.Tokenizer(models.WordPiece({UNKNOWN: 0}, unk_token=UNKNOWN, max_input_chars_per_word=100))
    table.normalizer = normalizer = normalizers.BertNormalizer(lowercase=True)
    table.pre_tokenizer = splitter = pre_tokenizers.BertPreTokenizer()
    table.decoder = decoders.WordPiece(cleanup=False)
    texts = list(texts)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    special = [PAD, UNKNOWN, FIRST, LAST, MASK]
    # The trainer numbers characters inside words in the order of a hash table, another one each time, and takes merges
    # of equal counts by these numbers. Those of special tokens it keeps, so the characters are given as such.
    inner = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*special, *inner], show_progress=False)
    table.train_from_iterator(texts, trainer)
    form = json.loads(table.to_str())
    form["added_tokens"] = [token for token in form["added_tokens"] if token["content"] in special]
    return WordPieces(json.dumps(form))


class WordPieceProcessor(Processor):
    """Texts -> examples `tokens` (length,) int64, at most `max_tokens` of them; batches are padded with 0."""

    def __init__(self, pieces: WordPieces, max_tokens: int) -> None:
        if max_tokens < 3:
            raise ValueError(f"max_tokens must leave room between the first and the last token, got {max_tokens}")
        self.pieces, self.max_tokens = pieces, max_tokens

    def __call__(self, source: Any) -> Example:
        return {"tokens": torch.tensor(self.pieces.encode(source, self.max_tokens), dtype=torch.int64)}

    def length(self, example: Example) -> int:
        return example["tokens"].shape[0]

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return {"tokens": nn.utils.rnn.pad_sequence([e["tokens"] for e in examples], batch_first=True)}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        raise TypeError("hidden words of a text model are drawn by objectives.masked_words.hide_words")

    def save(self, folder: Path) -> None:
        self.pieces.save(folder)
