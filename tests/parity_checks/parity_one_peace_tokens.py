"""The ONE-PEACE check of `parity.py` for texts: the published vocabulary, and the ids of each way to read a text."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import (
    BOS_ID,
    EOS_ID,
    EXPRESSION_WORDS,
    PAD_ID,
    SPECIALS,
    UNK_ID,
    Tokenizer,
    clean_caption,
    published_tokenizer,
)
from parity import Check, Comparison
from parity_files import Fixture


def vocabulary_folder() -> Path:
    """Where the published vocabulary lies: `ONE_PEACE_VOCAB`, or `../shared/vocab` beside the repository."""
    return Path(os.environ.get("ONE_PEACE_VOCAB", Path(__file__).parents[3] / "shared" / "vocab"))


@lru_cache
def published_words() -> Tokenizer:
    """The published vocabulary, built once."""
    folder = vocabulary_folder()
    return Tokenizer(published_tokenizer(folder / "encoder.json", folder / "vocab.bpe", folder / "dict.txt"))


@lru_cache
def numbers() -> dict[str, int]:
    """GPT-2's own number of each piece."""
    found: dict[str, int] = json.loads((vocabulary_folder() / "encoder.json").read_text(encoding="utf-8"))
    return found


def symbols(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """Pieces as the published dictionary writes them: GPT-2's number of each, or itself where it has none."""
    pieces = (tokenizer.piece(i) for i in ids)
    return [str(numbers().get(piece, piece)) for piece in pieces if piece is not None]


def check_tokenizer(fixture: Fixture, compare: Comparison) -> None:
    """The tables, the ids of every row in every reading, and a batch of them."""
    rows = fixture.meta["rows"]
    tokenizer = published_words()
    check_vocabulary(fixture.meta, compare, tokenizer)
    answer = tokenizer.decode(rows[0].get("aqa", ())).rpartition("answer:")[2].strip()  # which all rows end with
    readings: dict[str, Callable[[str], object]] = {
        "hub": tokenizer.encode,
        "dataset": lambda text: tokenizer.encode(clean_caption(text)),
        "dataset_clean": clean_caption,
        "dataset_refcoco": tokenizer.encode_expression,
        "dataset_refcoco_clean70": lambda text: clean_caption(text, max_words=EXPRESSION_WORDS),
        "bpe_ids": lambda text: " ".join(symbols(tokenizer, tokenizer.encode_exact(" " + text.lower()))),
        "aqa": lambda text: tokenizer.encode_answer(text, answer),
    }
    for row in rows:
        for name in row.keys() - {"text"}:
            compare.exact(f"{name} {row['text']!r}", readings[name](row["text"]), row[name])
    processor = TextProcessor(TextConfig(vocab_size=tokenizer.vocab_size), tokenizer)
    batch = fixture.meta["batch_padded"]
    padded = processor.collate([processor(tokenizer.decode(ids)) for ids in batch])
    compare.exact("batch", padded["tokens"].tolist(), batch)


def check_vocabulary(facts: dict[str, Any], compare: Comparison, tokenizer: Tokenizer) -> None:
    """Sizes, files, special and other symbols, which pieces begin a word."""
    compare.exact("dictionary size", tokenizer.vocab_size, facts["dict_size"])
    compare.exact("entries of encoder.json", len(numbers()), facts["encoder_json_entries"])
    for name, digest in facts["files"].items():
        ours = hashlib.sha256((vocabulary_folder() / name).read_bytes()).hexdigest()
        compare.exact(f"digest of {name}", ours, digest)
    compare.exact("specials", {"bos": BOS_ID, "pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID}, facts["specials"])
    compare.exact("number of specials", len(SPECIALS), facts["nspecial"])
    first, last = facts["first_symbols"], facts["last_symbols"]
    compare.exact("first symbols", symbols(tokenizer, range(len(first))), first)
    end = tokenizer.vocab_size
    compare.exact("last symbols", symbols(tokenizer, range(end - len(last), end)), last)
    starts, told = tokenizer.whole_word_starts, facts["whole_word_mask"]
    ours: dict[str, Any] = {"length": len(starts), "ones": int(starts.sum())}
    ours["sha256_of_bytes"] = hashlib.sha256(starts.numpy().tobytes()).hexdigest()
    for name in told:
        if place := re.fullmatch(r"(first|last)(\d+)", name):
            count = int(place[2])
            ours[name] = (starts[:count] if place[1] == "first" else starts[-count:]).tolist()
    compare.exact("beginnings of words", ours, told)


CHECKS: dict[str, Check] = {"fixture7_tokenizer": check_tokenizer}
