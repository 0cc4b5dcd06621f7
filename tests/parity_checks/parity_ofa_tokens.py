"""The OFA check of `parity.py` for its vocabulary: ids, texts, symbols, cleaning."""

from __future__ import annotations

from one_peace.modalities.tokenization import SPECIALS
from one_peace.models.ofa.presets import preset
from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from parity import Check, Comparison
from parity_files import Fixture
from parity_one_peace_tokens import numbers, published_words, symbols


def check_tokenizer(fixture: Fixture, compare: Comparison) -> None:
    """Ids, texts, symbols, cleaning."""
    vocabulary = OfaVocabulary(published_words(), preset("ofa-tiny"))
    rows = {vocabulary.name(row): row for row in range(len(SPECIALS), vocabulary.mask_id)}
    facts = fixture.meta
    for row in facts["strings"]:
        ids = vocabulary.encode(row["text"])
        compare.exact(f"ids of {row['text']!r}", ids, row["ids"])
        compare.exact(f"pieces of {row['text']!r}", [numbers()[vocabulary.name(i)] for i in ids], row["bpe_ids"])
        compare.exact(f"text of {row['text']!r}", vocabulary.decode(ids), row["decoded"])
    by_number = {str(number): piece for piece, number in numbers().items()}
    for row in facts["symbols_no_bpe"]:  # a word is written there as its number in GPT-2's table
        ids = [
            rows[by_number[word]] if word in by_number else vocabulary.symbols(word)[0] for word in row["text"].split()
        ]
        compare.exact(f"symbols {row['text']!r}", ids, row["ids"])
    row = facts["special_symbols_inside_bpe_text"]
    compare.exact(f"ids of {row['text']!r}", vocabulary.encode(row["text"]), row["ids"])
    for row in facts["truncation"]:
        ids = vocabulary.encode(row["text"], row["length"])
        framed = vocabulary.source(ids).tolist()
        ours = framed[not row["append_bos"] : len(framed) - (not row["append_eos"])]
        compare.exact(f"cut {row['text']!r}", ours, row["ids"])
    for row in facts["preprocess"]:
        for kind in ("caption", "question"):
            for key, theirs in row.items():
                if key.startswith(f"pre_{kind}"):
                    words = int(key.rpartition("_")[2]) if key[-1].isdigit() else None
                    ours = clean_text(row["text"], words, caption=kind == "caption")
                    compare.exact(f"{key} {row['text']!r}", ours, theirs)
    known = facts["vocab"]
    compare.exact("size", vocabulary.size, known["size"])
    for name, number in known.items():
        if name in ("bos", "pad", "eos", "unk"):
            special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}[name]
            compare.exact(name, vocabulary.name(number), special)
        elif name == "mask" or name.startswith(("code_", "bin_")):
            compare.exact(name, vocabulary.symbols(f"<{name}>"), [number])
    for name, number in known["madeup"]:
        compare.exact(name, vocabulary.name(number), name)
    tokenizer, first = vocabulary.tokenizer, known["first_20"]
    compare.exact("first symbols", symbols(tokenizer, range(len(first))), first)
    compare.exact("number of specials", len(SPECIALS), known["nspecial"])
    compare.exact("lines of dict.txt", tokenizer.vocab_size - len(SPECIALS), known["dict_txt_lines"])


CHECKS: dict[str, Check] = {"tokenizer": check_tokenizer}
