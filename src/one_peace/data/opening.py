"""From the data part of a recipe to a source of batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from one_peace.data.decoding import PairDecoder
from one_peace.data.folders import FolderSource, ManifestSource, find_list
from one_peace.data.loading import PairLoader
from one_peace.data.manifest import Split
from one_peace.data.mixture import Mixture
from one_peace.data.prefetch import PrefetchedPairs
from one_peace.data.row_index import first_line
from one_peace.data.shard_cache import REMOTE, ShardCache, expand_braces, is_remote, local_path
from one_peace.data.shards import ShardSource, media_endings
from one_peace.data.source import ConcatenatedSource, PairSource
from one_peace.data.tables import TableSource
from one_peace.errors import InputError
from one_peace.modalities import get_modality
from one_peace.modalities.tokenization import checked_text

SAMPLED_TEXTS = 20_000


@dataclass(frozen=True)
class SourceRecipe:
    """One source of pairs; what it is, is told by `path`.

    * `.tsv` files are tables as published; `text` and `media` name their columns, `root` is what paths in them start
      from.
    * `.tar` files, local or behind http(s), are webdataset shards. `endings` of file names tell the partner's files, by
      default those of its modality; `labels` are texts for the numbers in `.cls` files, a list or a file with one a
      line. Remote ones are counted once, unless `pairs_per_shard` says how many they hold, or `index` where a JSON file
      is that does (by default `sizes.json` beside them).
    * A folder, or a `.csv` or `.jsonl` in it, is a list of files and texts, or the manifest of a sample library.

    `path` may have ranges: `train-{00..31}.tsv`. `weight` is the share of the source in batches, relative to the
    others: all sources have one, or none, which means in proportion to their sizes.
    """

    path: str
    weight: float | None = None
    text: str | None = None
    media: str | None = None
    root: str | None = None
    pairs_per_shard: int | None = None
    index: str | None = None
    endings: tuple[str, ...] = ()
    labels: tuple[str, ...] | str = ()

    def __post_init__(self) -> None:
        for key in ("endings", "labels"):
            if not isinstance(value := getattr(self, key), str):
                object.__setattr__(self, key, tuple(value))
        if isinstance(self.endings, str):
            object.__setattr__(self, "endings", tuple(self.endings.split()))


def open_pairs(
    recipes: Mapping[str, SourceRecipe],
    decoder: PairDecoder,
    seed: int,
    shards: ShardCache,
    *,
    workers: int = 0,
    micro_batch: int | None = None,
) -> PrefetchedPairs:
    """The batches of a run from named sources, grouped by length: of the partner, or of the texts where all
    partners are of one length.

    Args:
        shards: keeps indexes and remote shards; one for all of a run, so that a dead server is waited for once.
        micro_batch: pairs that are padded to one length; None: those of a batch.

    Raises:
        InputError: a source that is not there, has no such column, or has nothing usable in it.
        ValueError: no source, an empty one, weights for only some.
    """
    sources = [open_source(name, recipe, decoder.partner_name, shards) for name, recipe in recipes.items()]
    weights = {name: recipe.weight for name, recipe in recipes.items() if recipe.weight is not None}
    group_by: Literal["text", "partner"] = "text" if get_modality(decoder.partner_name).fixed_length else "partner"
    loader = PairLoader(Mixture(sources, seed, weights or None), decoder, group_by)
    return PrefetchedPairs(loader, workers, micro_batch)


def sample_texts(recipes: Mapping[str, SourceRecipe], partner: str, shards: ShardCache) -> list[str]:
    """Up to `SAMPLED_TEXTS` texts, evenly from all sources, to train a tokenizer on.

    Raises:
        InputError: a source that is not there or has no such column.
    """
    texts = []
    for name, recipe in recipes.items():
        source = open_source(name, recipe, partner, shards)
        wanted = min(len(source), max(1, SAMPLED_TEXTS // len(recipes)))
        for number in range(wanted):
            with suppress(InputError):  # told when its turn comes in a batch
                texts.append(checked_text(source.read(number * len(source) // wanted).text))
    return texts


def open_source(
    name: str, recipe: SourceRecipe, partner: str, shards: ShardCache, split: Split = "train"
) -> PairSource:
    """One source under its name in the recipe; of the manifest of a sample library one of its splits."""
    paths = expand_braces(recipe.path)
    if is_shard(paths[0]):
        return ShardSource(
            paths,
            recipe.endings or media_endings(partner),
            shards,
            pairs_per_shard=recipe.pairs_per_shard,
            index=recipe.index,
            labels=_labels(recipe.labels),
            name=name,
        )
    parts = [_open_local(Path(path), recipe, partner, shards.folder, split) for path in paths]
    return ConcatenatedSource(name, parts)


def places_of(path: str) -> set[str]:
    """The files and addresses that the path of a source stands for, each in one spelling.

    Raises:
        InputError: a folder without a list of pairs.
    """

    def place(each: str) -> str:
        if is_remote(each):
            return each
        file = local_path(each)
        return str((find_list(file) if file.is_dir() else file).resolve())

    return {place(each) for each in expand_braces(path)}


def is_shard(path: str) -> bool:
    """Whether it is a tar file here or at an address, which may go on behind the name: `.tar?signature=...`."""
    if "://" not in path:
        return path.lower().endswith(".tar")
    address = urlsplit(path)
    if address.scheme not in (*REMOTE, "file") or not address.path.lower().endswith(".tar"):
        raise InputError(path, "only .tar files can be read from an address, by http, https or file; copy others here")
    return True


def _open_local(path: Path, recipe: SourceRecipe, partner: str, cache: Path, split: Split) -> PairSource:
    if path.suffix == ".tsv":
        root = None if recipe.root is None else Path(recipe.root)
        return TableSource(path, recipe.media or partner, cache, text=recipe.text, root=root)
    if not path.is_dir() and path.suffix not in (".csv", ".jsonl"):
        raise InputError(str(path), "is no .tsv, .csv, .jsonl or .tar file and no folder")
    listed = find_list(path)
    if listed.suffix == ".jsonl" and _is_library_manifest(listed):
        return ManifestSource(listed, partner, split=split)
    return FolderSource(path, cache, weigh=not get_modality(partner).fixed_length)


def _labels(given: tuple[str, ...] | str) -> tuple[str, ...] | None:
    if not isinstance(given, str):
        return given or None
    try:
        return tuple(Path(given).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(given, f"no list of labels: {error}") from error


def _is_library_manifest(path: Path) -> bool:
    try:
        row = json.loads(first_line(path))
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"kind", "group", "split"} <= set(row)
