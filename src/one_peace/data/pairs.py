"""(anchor, partner) pairs for pretraining, drawn from a manifest held in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from one_peace.configuration import within
from one_peace.data.dropped import Collect, Dropped, Padding, alone
from one_peace.data.manifest import Item, normalise_caption
from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.text import TextProcessor

# Captions drawn per pair wanted: one caption can stand in several sources; where inputs of like length are chosen among
# them, more are needed.
SURPLUS, SURPLUS_BY_LENGTH = 5 / 4, 4


@dataclass(frozen=True)
class DataRecipe:
    """What of the sample library is drawn, and how often.

    `sources` weighs each source by name, and clips of one language by both (`synthetic/es`) where that is given;
    `languages` weighs the captions' languages, and `own_language` is the probability that a spoken clip is paired
    with the caption in its own language, `tags` that two to four English keywords stand in for an English caption.
    Each word of a caption is left out with probability `word_dropout`: a small model would otherwise learn captions by
    heart and nothing of their words.
    `augmentation` is its strength; at 0 the library's pictures are still mirrored half of the time, and its long sounds
    cut at random. With `takes` every sound is augmented so many times ahead of the updates and goes through a kept
    front end then, once and for all; with 0 anew for every batch. `clip_seconds` and `caption_tokens` bound the
    lengths. `crop` are the smallest and largest share of the area of a picture of `files` that is shown. Both reach
    the partner's processor by `Processor.limited`.
    """

    sources: dict[str, float] = field(default_factory=dict)
    languages: dict[str, float] = field(default_factory=lambda: {"en": 1.0})
    own_language: float = 0.5
    tags: float = 0.2
    word_dropout: float = 0.0
    augmentation: float = 1.0
    takes: int = 0
    clip_seconds: float = 3.0
    caption_tokens: int = 20
    crop: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        within(self, "data", sources="[0, inf)", languages="[0, inf)", own_language="[0, 1]", tags="[0, 1]")
        within(self, "data", word_dropout="[0, 1)", augmentation="[0, 10]", takes="[0, inf)")
        within(self, "data", clip_seconds="(0, inf)", caption_tokens="[2, inf)")
        if self.crop is not None and (len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1):
            raise ValueError(f"data.crop: two shares of the area, [0.9, 1.0] for instance, not {list(self.crop)}")


class PairSampler:
    """Draws batches of captioned inputs of one modality; batch `step` depends on the seed and the step alone.

    A batch holds distinct captions only, since two pairs with one caption would be each other's negatives. No text
    drawn is one of `withheld` (normalised captions, the held-out ones), however it came about. `processor` reads every
    input once, which stays in memory, and augments it anew for each batch. Padding is counted as of
    `micro_batch` pairs at once.

    Items whose file cannot be read are left out: the first few are named in the log, `dropped` counts all.

    Raises:
        ValueError: the sources have no item, or none that can be read.
    """

    def __init__(
        self,
        items: Sequence[Item],
        text: TextProcessor,
        recipe: DataRecipe,
        partner: str,
        processor: Processor,
        withheld: Set[str] = frozenset(),
        micro_batch: int | None = None,
    ) -> None:
        self.text, self.recipe, self.withheld, self.micro_batch = text, recipe, withheld, micro_batch
        self.processor, self.padding, self.dropped = processor, Padding(), Dropped()
        # A caption may be a held-out one in another language, or the second one of a held-out picture.
        items = [item for item in map(self._without_withheld, items) if item.texts and self._weight(item)]
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(partial(_or_error, processor.load), [item.path for item in items]))
        kept = [(i, media) for i, media in zip(items, decoded, strict=True) if not isinstance(media, InputError)]
        failures = [(f"unreadable {partner}", str(media)) for media in decoded if isinstance(media, InputError)]
        self.dropped.add(failures)
        if failures and not kept:
            what = f"all {len(failures)} items of the sources {sorted(recipe.sources)} are unreadable"
            raise ValueError(f"{what}; the last one: {failures[-1][1]}")
        self.items = [item for item, _ in kept]
        self.media = [media for _, media in kept]
        lengths = [processor.loaded_length(media) for media in self.media]
        self.lengths = [length for length in lengths if length is not None]  # of all, or empty: batches ignore them
        self.takes: list[list[Example]] = []  # of every input, float16
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            groups[source_of(item, recipe.sources), item.group].append(index)
        self.groups = list(groups.values())
        self.group_names = [group for _, group in groups]
        self.weights = torch.tensor([recipe.sources[source] for source, _ in groups], dtype=torch.float64)
        if not self.items:
            raise ValueError(f"no item of the sources {sorted(recipe.sources)} in the manifest")

    def summary(self, collect: Collect = alone) -> dict[str, Any]:
        """What there is to draw from, and the share of padding in the batches of all processes so far, where a
        processor tells it."""
        found: dict[str, Any] = {
            "items": len(self.items),
            "captions": len(self.groups),
            "unreadable": self.dropped.total,
        }
        padding = Padding.of_all(collect(self.padding))
        return found | {"padding": round(padding.total, 3)} if padding.text_padded else found

    def totals(self, collect: Collect = alone) -> dict[str, float]:
        """The padding of all processes so far, as numbers that `go_on` takes."""
        return asdict(Padding.of_all(collect(self.padding)))

    def go_on(self, totals: Mapping[str, float]) -> None:
        """Counts on from these `totals`, of all processes."""
        self.padding = Padding(**{name: int(count) for name, count in totals.items()})

    def batch(self, size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> list[tuple[Example, Example]]:
        """`size` pairs as (text example, partner example), or the slice of them of process `rank` of `world`.

        Every process draws the whole batch: its random numbers come one after the other. `ValueError` if the batch
        cannot be divided among the processes.
        """
        if size % world:
            raise ValueError(f"a batch of {size} pairs cannot be divided among {world} processes")
        local = size // world
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = self._draw(size, generator)
        texts = [self._text(self.items[i], generator) for i in chosen]
        if self.takes:
            partners = [self._any_take(i, generator) for i in chosen]
        else:
            media = [self.media[i] for i in chosen]
            partners = self.processor.vary_batch(media, generator, self.recipe.augmentation)
        pairs = list(zip(texts, partners, strict=True))[rank * local : (rank + 1) * local]
        lengths = [(self.text.length(text), self.processor.length(partner)) for text, partner in pairs]
        self.padding.add(lengths, self.micro_batch)
        return pairs

    def keep_takes(self, front_end: Callable[[Example], Example], seed: int) -> None:
        """From now on batches hold what `front_end` makes of `recipe.takes` augmented takes of each input, kept as
        float16, in place of takes that are new each time."""

        def takes(number: int) -> list[Example]:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            media, strength = self.media[number], self.recipe.augmentation
            with torch.no_grad():
                drawn = [self.processor.vary(media, generator, strength) for _ in range(self.recipe.takes)]
                return [{name: x.half() for name, x in front_end(take).items()} for take in drawn]

        threads = torch.get_num_threads()
        # One take is too little work to share: each thread takes its own.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            self.takes = list(pool.map(takes, range(len(self.media))))
        torch.set_num_threads(threads)

    def _draw(self, size: int, generator: torch.Generator) -> list[int]:
        """Item indices, one per group, no caption twice; inputs of similar length, where the processor tells it."""
        surplus = SURPLUS_BY_LENGTH if self.lengths else SURPLUS
        groups = self._distinct(min(len(self.groups), int(size * surplus)), generator)
        if len(groups) < size:  # the same captions in several sources: look at all
            groups = self._distinct(len(self.groups), generator)
        if len(groups) < size:
            raise ValueError(
                f"batch_size={size}, but there are {len(groups)} different captions to draw from, and a batch holds "
                "none twice; use smaller batches or more sources"
            )
        if not self.lengths:
            return [self._any(self.groups[group], generator) for group in groups[:size]]
        target = self.lengths[int(torch.randint(len(self.media), (), generator=generator))]
        members = [self._of_length(self.groups[group], target, generator) for group in groups]
        return sorted(members, key=lambda i: abs(self.lengths[i] - target))[:size]

    def _distinct(self, count: int, generator: torch.Generator) -> list[int]:
        """Groups of different captions among `count` that are drawn by weight, in the order of the draw."""
        order = torch.multinomial(self.weights, count, replacement=False, generator=generator).tolist()
        first = {self.group_names[group]: group for group in reversed(order)}
        return [group for group in order if first[self.group_names[group]] == group]

    def _of_length(self, members: list[int], target: int, generator: torch.Generator) -> int:
        """One of the few inputs of a caption whose length is nearest to the batch's target."""
        return self._any(sorted(members, key=lambda i: abs(self.lengths[i] - target))[:3], generator)

    def _any_take(self, index: int, generator: torch.Generator) -> Example:
        takes = self.takes[index]
        return {name: x.float() for name, x in takes[int(torch.randint(len(takes), (), generator=generator))].items()}

    @staticmethod
    def _any(members: list[int], generator: torch.Generator) -> int:
        return members[int(torch.randint(len(members), (), generator=generator))]

    def _text(self, item: Item, generator: torch.Generator) -> Example:
        tokens = self.text(self._caption(item, generator))["tokens"]
        if len(tokens) > self.recipe.caption_tokens:
            words, end = tokens[: self.recipe.caption_tokens - 1], tokens[-1:]
            while normalise_caption(self.text.tokenizer.decode(words.tolist())) in self.withheld:
                words = words[:-1]
            tokens = torch.cat([words, end])
        return {"tokens": tokens}

    def _caption(self, item: Item, generator: torch.Generator) -> str:
        own, which, pick, tag, count = torch.rand(5, generator=generator).tolist()
        language = item.language
        if language not in item.texts or own > self.recipe.own_language:
            weights = {lang: self.recipe.languages.get(lang, 0.0) for lang in item.texts}
            language = _weighted_choice(weights, which) or next(iter(item.texts))
        captions = item.texts[language]
        caption = captions[int(pick * len(captions))]
        if language == "en" and len(item.tags) > 1 and tag < self.recipe.tags:
            order = torch.randperm(len(item.tags), generator=generator)[: 2 + int(3 * count)].tolist()
            return self._unless_withheld(", ".join(item.tags[i] for i in order), caption)
        words = caption.split()
        kept = torch.rand(len(words), generator=generator) >= self.recipe.word_dropout
        fewer = " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)
        return self._unless_withheld(fewer, caption)

    def _unless_withheld(self, text: str, instead: str) -> str:
        normal = normalise_caption(text)
        return instead if not normal or normal in self.withheld else text

    def _weight(self, item: Item) -> float:
        return self.recipe.sources.get(source_of(item, self.recipe.sources), 0.0)

    def _without_withheld(self, item: Item) -> Item:
        def allowed(texts: list[str]) -> list[str]:
            return [text for text in texts if normalise_caption(text) not in self.withheld]

        left = {language: kept for language, texts in item.texts.items() if (kept := allowed(texts))}
        return item if left == item.texts else replace(item, texts=left)  # the sounds of a picture share its captions


def _or_error(decode: Callable[[Path], Any], path: Path) -> Any:
    """What `decode` makes of a file, or the `InputError` that says why not."""
    try:
        return decode(path)
    except InputError as error:
        return error.with_traceback(None)


def source_of(item: Item, weighed: Container[str]) -> str:
    """The name that a recipe weighs an item by: with its language, if that is among those `weighed`."""
    name = item.track or item.source
    spoken = f"{name}/{item.language}"
    return spoken if spoken in weighed else name


def _weighted_choice(weights: dict[str, float], uniform: float) -> Any:
    total = sum(weights.values())
    for key, weight in weights.items():
        uniform -= weight / total if total else 0.0
        if weight and uniform <= 0:
            return key
    return None
