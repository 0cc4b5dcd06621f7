"""Text to token ids: byte-level BPE whose ids are the model's rows, in one form, a `tokenizer.json`.

The published vocabulary is two tables deep (GPT-2 pieces, then a dictionary that reorders them by frequency);
`published_tokenizer` folds both into one table, so that nothing downstream knows of it. Our own smaller
vocabularies have the same four special ids. The specials are rows of the table but never the result of
encoding a text: writing "</s>" in a caption gives the characters, not the end of the sequence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.sources import describe

BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(4)
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
EXPRESSION_WORDS = 70  # of a referring expression, at most
_END_OF_RUN = re.compile(r"[^\W_](?=[\W_])|\S(?= \S)")
_CUT_ANYWHERE = 8  # times what the tokens asked for could hold


class Tokenizer:
    """Texts as the model reads them: the first `max_tokens` ids, then the end token. No start token.

    Picklable; `to_json` and the constructor are inverse.
    """

    def __init__(self, table: tokenizers.Tokenizer | str, *, max_tokens: int = 70) -> None:
        """`table`: a tokenizer or the text of a tokenizer.json. ValueError if it is not of this form."""
        if isinstance(table, str):
            try:
                table = tokenizers.Tokenizer.from_str(table)
            except Exception as error:  # the library raises plain Exception
                raise ValueError(f"not a tokenizer.json: {error}") from error
        found = tuple(table.id_to_token(i) for i in range(len(SPECIALS)))
        if found != SPECIALS:
            raise ValueError(f"ids 0..3 of the tokenizer must be {SPECIALS}, found {found}")
        table.no_truncation()
        table.no_padding()
        self._table = table
        self.max_tokens = max_tokens

    @classmethod
    def from_file(cls, path: str | Path, *, max_tokens: int = 70) -> Tokenizer:
        """Read a tokenizer.json."""
        return cls(Path(path).read_text(encoding="utf-8"), max_tokens=max_tokens)

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        return self._table.to_str()

    @property
    def vocab_size(self) -> int:
        return self._table.get_vocab_size()

    @cached_property
    def whole_word_starts(self) -> Tensor:
        """(vocab_size,) uint8, see the function of this name."""
        return whole_word_starts(self._table)

    def encode(self, text: str) -> list[int]:
        """A text as a user types it (the published demo): lower case, otherwise untouched. Captions of data sets come
        through `clean_caption` first."""
        return self._ids(" " + checked_text(text).lower(), self.max_tokens)

    def encode_expression(self, text: str) -> list[int]:
        """A referring expression (grounding): limited by words and not by tokens, as published."""
        return self._ids(" " + clean_caption(checked_text(text), max_words=EXPRESSION_WORDS), None)

    def encode_answer(self, question: str, answer: str) -> list[int]:
        """A question about a sound with one candidate answer: case kept and no limit, as published."""
        return self._ids(f" {checked_text(question)} answer: {checked_text(answer)}", None)

    def encode_exact(self, text: str) -> list[int]:
        """A text as it stands: no blank in front, no end token, no limit."""
        return self._table.encode(checked_text(text), add_special_tokens=False).ids

    def piece(self, number: int) -> str | None:
        """The piece of an id, in byte-level symbols; None for an id that the vocabulary does not have."""
        found: str | None = self._table.id_to_token(number)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without specials and the blank before the first word."""
        return self._table.decode([int(i) for i in ids if int(i) >= len(SPECIALS)]).removeprefix(" ")

    def _ids(self, text: str, limit: int | None) -> list[int]:
        if limit is not None:
            text = self._shorten(text, limit)
        ids = self._table.encode(text, add_special_tokens=False).ids
        return ids[:limit] + [EOS_ID]

    def _shorten(self, text: str, limit: int) -> str:
        """Drop what cannot reach the first `limit` tokens (a whole book may come in here).

        A run of letters or digits, and a word that stands between blanks, is tokenised on its own, so cutting behind
        one changes no token before. Where there is no such place for long, any is as good: merges of pieces do not
        reach that far back.
        """
        reach = limit * self._longest_piece
        farthest = _CUT_ANYWHERE * reach
        end = _END_OF_RUN.search(text, reach, farthest)
        return text[: end.start() + 1] if end else text[:farthest]

    @cached_property
    def _longest_piece(self) -> int:
        return max(len(piece) for piece in self._table.get_vocab())

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.to_json(), self.max_tokens)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, max_tokens={self.max_tokens})"


def _restore(table: str, max_tokens: int) -> Tokenizer:
    return Tokenizer(table, max_tokens=max_tokens)


def checked_text(text: object) -> str:
    """The text itself. `InputError` for what is no `str`, or holds a lone surrogate."""
    if not isinstance(text, str):
        raise InputError(describe(text), f"expected a text (str), got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(describe(text), "holds a lone surrogate, which is no character") from error
    return text


def clean_caption(text: str, *, max_words: int | None = None) -> str:
    """The published cleaning: lower case, no leading punctuation, single blanks; at most `max_words`."""
    text = text.lower().lstrip(",.!?*#:;~")
    text = re.sub(r"\s{2,}|\t", " ", text).rstrip("\n").strip(" ")
    if max_words is None:
        return text
    return " ".join(text.split(" ")[:max_words])


def join_pieces(pieces: Sequence[str]) -> str:
    """The text of pieces in byte-level symbols; bytes that are no characters become U+FFFD."""
    text: str = decoders.ByteLevel().decode(list(pieces))
    return text


def published_tokenizer(encoder_json: str | Path, vocab_bpe: str | Path, dict_txt: str | Path) -> tokenizers.Tokenizer:
    """The published vocabulary (50264 ids) from its three files.

    Args:
        encoder_json: GPT-2 pieces and their ids.
        vocab_bpe: GPT-2 merges, after a version line.
        dict_txt: a GPT-2 id (or a filler word) and its count on each line; line k becomes id 4 + k.
    """
    pieces: dict[str, int] = json.loads(Path(encoder_json).read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ")) for line in Path(vocab_bpe).read_text(encoding="utf-8").splitlines()[1:] if line]
    lines = Path(dict_txt).read_text(encoding="utf-8").splitlines()
    symbols = [line.rsplit(" ", 1)[0] for line in lines if line]
    row_of = {symbol: row for row, symbol in enumerate(symbols, start=len(SPECIALS))}
    by_id = {str(number): piece for piece, number in pieces.items()}
    if missing := by_id.keys() - row_of.keys():
        raise ValueError(f"{dict_txt} lacks {len(missing)} pieces of {encoder_json}, such as {min(missing)}")
    rows = {special: row for row, special in enumerate(SPECIALS)}
    rows.update((by_id.get(symbol, symbol), row) for symbol, row in row_of.items())
    return _byte_level(models.BPE(vocab=rows, merges=merges))  # type: ignore[arg-type]


def port_tokenizer(vocab_json: str | Path, merges_txt: str | Path) -> tokenizers.Tokenizer:
    """The same vocabulary from the two files of a transformers-style model, whose pieces have our ids already.

    What comes after the words (`<mask>` and added symbols) is left out: it is not part of texts.
    """
    rows: dict[str, int] = json.loads(Path(vocab_json).read_text(encoding="utf-8"))
    words = {piece: row for piece, row in rows.items() if not re.fullmatch(r"<(mask|(code|bin)_\d+)>", piece)}
    if sorted(words.values()) != list(range(len(words))):
        raise ValueError(f"{vocab_json}: ids of the words are not 0 to {len(words) - 1}")
    lines = Path(merges_txt).read_text(encoding="utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    return _byte_level(models.BPE(vocab=words, merges=merges))  # type: ignore[arg-type]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """A vocabulary of at most `vocab_size` ids learned from texts, read as `Tokenizer.encode` reads them.

    Every byte has a piece, so no text is unknown. The same texts give the same vocabulary.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(SPECIALS) + len(alphabet)
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} (bytes and specials), got {vocab_size}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learned = _byte_level(models.BPE())
    learned.train_from_iterator((" " + text.lower() for text in texts), trainer)
    # The trainer also declares the specials as literals to look for in texts: take the declaration back.
    form = json.loads(learned.to_str())
    form["added_tokens"] = []
    return tokenizers.Tokenizer.from_str(json.dumps(form))


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # GPT-2's pattern
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def whole_word_starts(tokenizer: tokenizers.Tokenizer) -> Tensor:
    """Which ids begin a word: specials, filler rows, and pieces that start with a blank. (vocab,) uint8.

    The blank is looked for in the piece's decoded bytes, so half a character never counts as a start.
    """
    starts = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.uint8)
    blank = _byte_symbols()[ord(" ")]
    for piece, row in tokenizer.get_vocab().items():
        if row < len(SPECIALS) or piece.startswith(("madeupword", blank)):
            starts[row] = 1
    return starts


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level pieces."""

    def symbols() -> Iterator[str]:
        substitute = 256
        for byte in range(256):
            if 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte <= 0xFF:
                yield chr(byte)
            else:
                yield chr(substitute)
                substitute += 1

    return list(symbols())
