"""Retrieval and zero-shot labels on held-out pairs: what is asked, and what counts as right.

A set is a list of partners (pictures, sounds, ...) and a list of texts, each once, by the rule of `DistinctPairs`.
So of a picture with five captions each one is right, and of two pictures with the same caption both are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Generator, Tensor

from one_peace.data.decoding import PairDecoder
from one_peace.data.dropped import Dropped
from one_peace.data.manifest import Item
from one_peace.data.pairs import source_of
from one_peace.data.source import PairSource, RawPair, UnusablePair
from one_peace.errors import InputError
from one_peace.modalities.base import Example
from one_peace.modalities.tokenization import clean_caption
from one_peace.tasks.distinct_pairs import DistinctPairs, identity_of
from one_peace.tasks.retrieval import recall_at

RANKS = (1, 5, 10)
Read = Callable[[], RawPair]


@dataclass(frozen=True)
class HeldOut:
    """Partners, decoded, and the texts that they are looked up among. relevant: (partners, texts) bool."""

    partners: list[Example]
    texts: list[str]
    relevant: Tensor


def decode_held_out(name: str, pairs: Sequence[Read], decoder: PairDecoder) -> HeldOut:
    """The usable ones of some pairs; the first others are named in the log, all are counted there.

    Raises:
        InputError: none is usable, or all have one text.
    """
    if not pairs:
        raise InputError(name, "there are no held-out pairs of the recipe's modality and sources")
    dropped = Dropped()

    def read(pair: Read) -> tuple[str, str, Example] | UnusablePair:
        try:
            raw = pair()
            return identity_of(raw.partner), clean_caption(raw.text), decoder(raw, Generator())[1]
        except UnusablePair as error:
            return error

    distinct = DistinctPairs[Example]()
    with ThreadPoolExecutor() as pool:
        for found in pool.map(read, pairs):
            if isinstance(found, UnusablePair):
                dropped.add([(found.reason, str(found))])
                continue
            identity, caption, example = found
            distinct.add(identity, example, caption)
    if len(distinct.texts) < 2:
        what = "have only one text: there is nothing to choose from" if distinct.texts else "hold nothing usable"
        raise InputError(name, f"its {len(pairs)} pairs {what}. {dropped}")
    return HeldOut(distinct.media, distinct.texts, distinct.relevant())


def from_source(source: PairSource, count: int) -> list[Read]:
    """Up to `count` pairs, evenly from all of a source."""
    wanted = min(len(source), count)
    return [partial(source.read, number * len(source) // wanted) for number in range(wanted)]


def validation_items(items: Iterable[Item], partner: str, sources: Iterable[str], count: int) -> list[Item]:
    """Up to `count` items of the validation split of the sample library, from these sources, drawn by hash.

    No symbols (letters, digits), no held-out speakers. A sound has the captions of the thing that it belongs to.
    """
    items, wanted = list(items), set(sources)
    things = {item.id: item for item in items if item.kind == "image"}
    chosen = [
        item
        for item in items
        if item.kind == partner and item.split == "val" and source_of(item, wanted) in wanted
        if not item.heldout_speaker and not things.get(item.item or item.id, item).symbol
    ]
    return sorted(chosen, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:count]


def captions_of(items: Iterable[Item]) -> list[Read]:
    """Each item with its first English caption."""

    def pair(item: Item) -> Read:
        return lambda: RawPair(str(item.path), item.english, item.path)

    return [pair(item) for item in items]


def categories_of(items: Iterable[Item]) -> list[Read]:
    """Each item with the outermost part of its category, `animals` of `animals/birds`."""

    def pair(item: Item) -> Read:
        outermost = item.category.removeprefix("emoji/").split("/")[0]
        return lambda: RawPair(str(item.path), re.sub(r"[\W_]+", " ", outermost), item.path)

    return [pair(item) for item in items if item.category]


def retrieval_figures(partner: str, scores: Tensor, relevant: Tensor) -> dict[str, float]:
    """recall@k both ways, and `recall`, the mean of them all. scores (partners, texts) float, relevant as in a set."""
    figures = {
        **_recalls(f"{partner}_to_text", scores, relevant),
        **_recalls(f"text_to_{partner}", scores.t(), relevant.t()),
    }
    return figures | {"recall": sum(figures.values()) / len(figures)}


def label_figures(scores: Tensor, relevant: Tensor) -> dict[str, float]:
    """Share of partners with a right label among the k best; `zero_shot@1` is the accuracy."""
    return _recalls("zero_shot", scores, relevant)


def label_vectors(prompted: Tensor) -> Tensor:
    """(prompts, labels, dim) unit length -> the direction of each label's mean, (labels, dim)."""
    return F.normalize(prompted.mean(dim=0), dim=1)


def _recalls(name: str, scores: Tensor, relevant: Tensor) -> dict[str, float]:
    ranks = [k for k in RANKS if k == 1 or k < scores.shape[1]]
    if not scores.isfinite().all():  # weights that are not finite rank nothing
        return {f"{name}@{k}": float("nan") for k in ranks}
    return {f"{name}@{k}": recall_at(scores, relevant, k).double().mean().item() for k in ranks}
