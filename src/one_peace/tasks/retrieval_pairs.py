"""Tables for retrieval: rows as pairs to train on, and the sets of a benchmark that are looked up among each other."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.data.tables import KEY_COLUMNS, TEXT_COLUMNS
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.tokenization import clean_caption
from one_peace.tasks.distinct_pairs import DistinctPairs, identity_of
from one_peace.tasks.held_out import HeldOut
from one_peace.tasks.task import BadRow, OnError, Row, TaskExample, column, prepare, text_of, usable
from one_peace.tasks.task_file import SavedSettings

RETRIEVAL = "retrieval"  # the kind of task


@dataclass(frozen=True)
class RetrievalSettings(SavedSettings):
    """Retrieval of `modality` by text and back. `contrast` and `repeated_captions` as in `PretrainRecipe`; the
    published runs have "negatives" for the latter. In evaluations of models that match (MiCo) the first `rerank` of
    each ranking are put in the order of their matching scores; published: 50. columns: other names of a table's
    columns, those that the model was fine-tuned with."""

    kind: str
    modality: str = "image"
    contrast: str = "published"
    repeated_captions: str = "ignored"
    rerank: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def kinds(cls) -> Collection[str]:
        return (RETRIEVAL,)

    def __post_init__(self) -> None:
        check_rerank(self.rerank)


def check_rerank(first: int) -> None:
    """`ValueError` for a number of the first in a ranking that cannot be put in another order."""
    if first < 0 or first == 1:
        raise ValueError(f"task.rerank: 0 for none, or how many of the first are ordered anew, not {first}")


class CaptionedRows:
    """Rows have the picture, sound or the like under the name of its modality, and `text` or `caption`."""

    def __init__(self, processors: Mapping[str, Processor], modality: str) -> None:
        self.processors, self.modality, self.columns = processors, modality, (modality,)

    def example(self, row: Row, key: str) -> TaskExample:
        """A pair, the caption cleaned as published. `BadRow` names what is wrong with it under `key`."""
        caption = caption_of(row, key)
        partner = prepare(self.processors[self.modality], column(row, self.modality, key), self.modality, key)
        text = prepare(self.processors["text"], caption, "text", key)
        return TaskExample(key, {"text": [text], self.modality: [partner]}, None)


def caption_of(row: Row, key: str) -> str:
    """The cleaned caption of a row, of which something must be left."""
    name = next((name for name in TEXT_COLUMNS if name in row), TEXT_COLUMNS[-1])
    caption = clean_caption(text_of(row, name, key))
    if not caption:
        raise BadRow(key, f"column {name!r} has nothing in it but punctuation")
    return caption


@dataclass(frozen=True)
class RetrievalSet:
    """Pictures, sounds or the like (contents or paths) with the rows they stand in, and texts, not cleaned yet.

    relevant: (media, texts) bool, which text is right for which. `left_out` says what of the files is not in the set;
    `skipped` are the rows among that.
    """

    media: list[Any]
    keys: list[str]
    texts: list[str]
    relevant: Tensor
    left_out: tuple[str, ...] = ()
    skipped: tuple[InputError, ...] = ()

    def decode(self, reader: CaptionedRows) -> tuple[HeldOut, list[InputError]]:
        """The set with its media decoded, all at once, and the errors of the rows that were left out of it.

        Raises:
            InputError: nothing usable is left, or less than two texts.
        """
        media: list[Example] = []
        errors: dict[int, InputError] = {}
        for number, (value, key) in enumerate(zip(self.media, self.keys, strict=True)):
            try:
                media.append(prepare(reader.processors[reader.modality], value, reader.modality, key))
            except InputError as error:
                errors[number] = error
        kept = self.without(errors, [])
        if not media or len(kept.texts) < 2:
            raise InputError(
                self.keys[0],
                f"and the {len(self.keys) - 1} after it hold too little that is usable; {len(errors)} cannot be read",
            )
        held_out = HeldOut(media, [clean_caption(text) for text in kept.texts], kept.relevant)
        return held_out, [*self.skipped, *errors.values()]

    def without(self, numbers: Collection[int], why: Iterable[str]) -> RetrievalSet:
        """The set without some of its media, and without the texts that were right for these alone."""
        kept = [number for number in range(len(self.media)) if number not in numbers]
        relevant = self.relevant[kept]
        answerable = relevant.any(dim=0)
        texts = [text for text, answer in zip(self.texts, answerable.tolist(), strict=True) if answer]
        return RetrievalSet(
            [self.media[n] for n in kept],
            [self.keys[n] for n in kept],
            texts,
            relevant[:, answerable],
            (*self.left_out, *why),
            self.skipped,
        )


def read_captions(path: Path) -> dict[str, list[str]]:
    """The published file of texts: a JSON object from the key of a picture or sound to its captions.

    Raises:
        InputError: the file cannot be read, or holds something else, or an empty caption.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"is no file of captions: {error}") from error
    if not isinstance(values, dict) or not values:
        raise InputError(str(path), 'is no JSON object such as {"17": ["a caption", "another"]}')
    captions = {key: [value] if isinstance(value, str) else value for key, value in values.items()}
    for key, some in captions.items():
        if not isinstance(some, list) or not some or not all(isinstance(text, str) for text in some):
            raise InputError(f"{path}, {key!r}", "has no list of captions")
        if not all(clean_caption(text) for text in some):
            raise InputError(f"{path}, {key!r}", "has an empty caption")
    return captions


def read_retrieval_set(
    rows: TaskRows,
    modality: str | Sequence[str],
    captions: Mapping[str, list[str]] | None = None,
    on_error: OnError = "raise",
) -> RetrievalSet:
    """What is asked, and what is right. Of several modalities a medium is a dict of them.

    With `captions` the published rule: every caption of the file is a text of its own, in the order of the file, and
    right for the row that has its key (`uniq_id`, `image_id`, `id`), however many captions read the same. Without, the
    table's own captions are the texts; those that are equal but for case and punctuation are one, and a file that
    stands in several rows is one.

    Raises:
        InputError: rows that cannot be read, contradict each other or the captions, or have an empty caption, unless
            they are skipped; or less than two texts.
    """
    found = _of_table(rows, modality, on_error) if captions is None else _by_key(rows, modality, captions, on_error)
    if len(found.texts) < 2:
        last = f"; the last row left out: {found.skipped[-1]}" if found.skipped else ""
        raise InputError(str(rows.path), f"has less than two texts: there is nothing to choose from{last}")
    return found


def _medium(row: Row, modality: str | Sequence[str], key: str) -> Any:
    if isinstance(modality, str):
        return column(row, modality, key)
    return {name: column(row, name, key) for name in modality}


def _by_key(
    rows: TaskRows, modality: str | Sequence[str], captions: Mapping[str, list[str]], on_error: OnError
) -> RetrievalSet:
    own_column = rows.id
    if own_column is None:
        raise InputError(str(rows.path), f"has none of the columns {', '.join(KEY_COLUMNS)} that captions go by")
    numbers: dict[str, int] = {}
    media: list[Any] = []
    keys: list[str] = []

    def take(row: Row, key: str) -> None:
        own, value = text_of(row, own_column, key), _medium(row, modality, key)
        if own not in captions:
            raise BadRow(key, f"column {own_column!r}: {own!r:.60} is not in the file of captions")
        if own not in numbers:
            numbers[own] = len(media)
            media.append(value)
            keys.append(key)
        elif media[numbers[own]] != value:
            kind = modality if isinstance(modality, str) else " or ".join(modality)
            raise BadRow(key, f"has the {own_column} of {keys[numbers[own]]}, and another {kind}")

    skipped: list[InputError] = []
    for _ in usable(rows, take, on_error, skipped):
        pass  # `take` has kept what it read
    texts = [(numbers[own], text) for own, some in captions.items() if own in numbers for text in some]
    relevant = torch.zeros(len(media), len(texts), dtype=torch.bool)
    relevant[[number for number, _ in texts], range(len(texts))] = True
    orphans = [own for own in captions if own not in numbers]
    said = f"captions of {len(orphans)} keys that {rows.path} does not have, {orphans[0]!r} first" if orphans else None
    left_out = (*((said,) if said else ()), *map(str, skipped))
    return RetrievalSet(media, keys, [text for _, text in texts], relevant, left_out, tuple(skipped))


def _of_table(rows: TaskRows, modality: str | Sequence[str], on_error: OnError) -> RetrievalSet:
    def read(row: Row, key: str) -> tuple[Any, str]:
        return _medium(row, modality, key), caption_of(row, key)

    pairs = DistinctPairs[tuple[Any, str]]()  # media, each with the key of its first row
    skipped: list[InputError] = []
    for key, (medium, caption) in usable(rows, read, on_error, skipped):
        pairs.add(identity_of(medium), (medium, key), caption)
    media, keys = [medium for medium, _ in pairs.media], [key for _, key in pairs.media]
    return RetrievalSet(media, keys, pairs.texts, pairs.relevant(), tuple(map(str, skipped)), tuple(skipped))
