"""Where the vocabulary of a saved model is: the path that was asked for, beside the model, or in $ONE_PEACE_VOCAB."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.tokenization import Tokenizer, port_tokenizer, published_tokenizer

VOCABULARY_VARIABLE = "ONE_PEACE_VOCAB"
PUBLISHED_VOCABULARY = ("encoder.json", "vocab.bpe", "dict.txt")
PORT_VOCABULARY = ("vocab.json", "merges.txt")


def find_tokenizer(place: str | os.PathLike[str], max_tokens: int) -> Tokenizer | None:
    """The tokenizer at a path: a tokenizer.json, or a folder with one, with the three published files, or with the two
    of a transformers-style model. `ValueError` for files that are something else."""
    path = Path(place)
    with reading_vocabulary(path):
        if path.is_file():
            return Tokenizer.from_file(path, max_tokens=max_tokens)
        if (path / "tokenizer.json").is_file():
            return Tokenizer.from_file(path / "tokenizer.json", max_tokens=max_tokens)
        if all((path / name).is_file() for name in PUBLISHED_VOCABULARY):
            table = published_tokenizer(*(path / name for name in PUBLISHED_VOCABULARY))
            return Tokenizer(table, max_tokens=max_tokens) if not isinstance(table, Tokenizer) else table
        if all((path / name).is_file() for name in PORT_VOCABULARY):
            return Tokenizer(port_tokenizer(*(path / name for name in PORT_VOCABULARY)), max_tokens=max_tokens)
    return None


@contextmanager
def reading_vocabulary(path: Path) -> Iterator[None]:
    """Makes errors of reading a vocabulary into `ValueError`s that name its file or folder."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # the tokenizers library raises plain ones
        raise ValueError(f"{path}: not a vocabulary: {error}") from error


def tokenizer_beside(model: Path, max_tokens: int, fits: Callable[[int], bool]) -> Tokenizer | None:
    """The tokenizer in the folder or beside the file of a saved model, else the one in $ONE_PEACE_VOCAB.

    That one may be of other models: a warning if its number of ids does not fit.
    """
    for place in [model] if model.is_dir() else [model.with_suffix(".tokenizer.json"), model.parent]:
        if (found := find_tokenizer(place, max_tokens)) is not None:
            return found
    named = os.environ.get(VOCABULARY_VARIABLE)
    found = find_tokenizer(named, max_tokens) if named else None
    if found is not None and not fits(found.vocab_size):
        warnings.warn(
            f"{VOCABULARY_VARIABLE}={named}: its {found.vocab_size} ids are not the vocabulary of {model}, which is "
            "loaded without one",
            stacklevel=2,
        )
        return None
    return found


class NoVocabulary(Processor):
    """Stands in for the text processor of an official file whose vocabulary was not found."""

    PROBLEM = (
        "this model was loaded without a vocabulary; pass from_pretrained(..., tokenizer=FOLDER) or set "
        f"{VOCABULARY_VARIABLE}, FOLDER holding tokenizer.json or {', '.join(PUBLISHED_VOCABULARY)}"
    )

    def __call__(self, source: Any) -> Example:
        raise InputError(repr(source)[:60], self.PROBLEM)

    def length(self, example: Example) -> int:
        return example["tokens"].shape[0]

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        raise InputError("text", self.PROBLEM)

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        raise InputError("text", self.PROBLEM)
