"""The manifest of a sample library: one JSON line per picture, sound or video, and the rules of its splits.

An item's `group` is its English caption, normalised; `split_of` hashes the group, so every item with the same
caption is on the same side whatever package it came from and in whatever order the packages were read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from one_peace.atomic_files import write_whole
from one_peace.errors import InputError

Kind = Literal["image", "audio", "video"]
Track = Literal["effect", "speech", "synthetic"]
Split = Literal["train", "val", "test"]

_ARTICLES = re.compile(r"^(?:a|an|the|some) (?=.)")


@dataclass(frozen=True)
class Item:
    """One picture, sound or video of the library, with everything known of it.

    `path` is absolute once loaded; in the file it is relative to the cache, so that the cache can move.
    `texts` maps a language (`en`, `pt_BR`, ...) to its captions, best first; `tags` are English keywords.
    Sounds alone have `track`, `duration` (seconds) and, when somebody speaks, `language` and `speaker`;
    `item` is the id of the picture they belong to. A sound with `heldout_speaker` is never for training.
    """

    id: str
    kind: Kind
    path: Path
    group: str
    split: Split
    source: str
    version: str
    licence: str
    texts: dict[str, list[str]]
    tags: list[str] = field(default_factory=list)
    category: str = ""
    symbol: bool = False
    track: Track | None = None
    language: str | None = None
    speaker: str | None = None
    heldout_speaker: bool = False
    item: str | None = None
    duration: float | None = None

    @property
    def english(self) -> str:
        """The first English caption; without one the group."""
        return self.texts.get("en", [self.group])[0]


@lru_cache(maxsize=1 << 18)  # the same captions come with every sound of a picture
def normalise_caption(caption: str) -> str:
    """The caption without case, punctuation and leading article: `A red  apple!` -> `red apple`."""
    folded = re.sub(r"[\W_]+", " ", caption.casefold()).strip()
    # A caption of signs alone (`+`) is kept as it is: groups of nothing would all be one.
    return _ARTICLES.sub("", folded) or caption.casefold().strip()


def split_of(group: str) -> Split:
    """The side of the split of a group: 80 % train, 10 % val, 10 % test, by hash."""
    draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    if draw < 0.8:
        return "train"
    return "val" if draw < 0.9 else "test"


def keep_captions_apart(items: Iterable[Item]) -> list[Item]:
    """Takes out of training what would give away a held-out caption in any language.

    English captions cannot cross (they make the groups), but two of them may share a translation, and a
    second title or a tag may be somebody else's caption. From training pictures such a text is removed; a
    training clip that speaks such a sentence is dropped.
    """
    items = list(items)
    withheld: set[tuple[str, str]] = set()
    for item in items:
        if item.split != "train":
            withheld |= {(lang, normalise_caption(t)) for lang, texts in item.texts.items() for t in texts}
    # What training items are grouped by stays theirs, even if a held-out item has it as a second caption.
    withheld -= {("en", item.group) for item in items if item.split == "train"}
    cleaned: dict[int, dict[str, list[str]]] = {}  # by identity: the sounds of a picture share its captions
    kept = []
    for item in items:
        if item.split != "train":
            kept.append(item)
            continue
        if id(item.texts) not in cleaned:
            cleaned[id(item.texts)] = _without(item.texts, withheld)
        texts = cleaned[id(item.texts)]
        if item.language is not None:
            spoken = item.language if item.language in item.texts else item.language.split("_")[0]
            if spoken in item.texts and spoken not in texts:
                continue
        tags = [tag for tag in item.tags if ("en", normalise_caption(tag)) not in withheld]
        kept.append(replace(item, texts=texts, tags=tags))
    return kept


def _without(texts: dict[str, list[str]], withheld: set[tuple[str, str]]) -> dict[str, list[str]]:
    left = {lang: [t for t in some if (lang, normalise_caption(t)) not in withheld] for lang, some in texts.items()}
    return {lang: some for lang, some in left.items() if some}


def held_out_captions(items: Iterable[Item]) -> set[str]:
    """What no training text may say: the captions of the validation and test splits, normalised, in any language."""
    held_out = (item.texts for item in items if item.split != "train")
    return {normalise_caption(text) for texts in held_out for some in texts.values() for text in some}


def captioned_items(items: Iterable[Item], kind: str, split: Split = "train") -> list[Item]:
    """The items of a kind that pairs with texts are made of, in a split; none of a held-out speaker.

    A sound has the captions of the thing it belongs to, whose picture is not seen with it.
    """
    items = list(items)
    texts = {item.id: item.texts for item in items if item.kind == "image"}
    chosen = [item for item in items if item.kind == kind and item.split == split and not item.heldout_speaker]
    captioned = [item if item.texts else replace(item, texts=texts.get(item.item or "", {})) for item in chosen]
    return [item for item in captioned if item.texts]


def write_manifest(items: Iterable[Item], path: Path, root: Path) -> None:
    """Writes `path` in one step, items in the order given, item paths relative to `root`.

    Captions of a sound that are those of its picture (nearly always) are not written again: `load_manifest`
    fills them in, and the file is an eighth as large.
    """
    items = list(items)
    captions = {item.id: item.texts for item in items if item.kind == "image"}
    lines = []
    for item in items:
        row: dict[str, Any] = {}
        for entry in fields(Item):
            value = getattr(item, entry.name)
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            if value != default:
                row[entry.name] = value
        if item.item is not None and captions.get(item.item) == item.texts:
            del row["texts"]
        row["path"] = item.path.relative_to(root).as_posix()
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_whole(path, "".join(lines).encode())


def load_manifest(path: Path, *, root: Path | None = None) -> list[Item]:
    """The items of a manifest, with absolute paths.

    `root` is the cache that the paths are relative to; by default the folder that holds `library/`.

    Raises:
        InputError: the file is missing, or one of its lines is no item.
    """
    path = Path(path)
    root = path.resolve().parents[2] if root is None else root
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.readlines()  # unlike `splitlines`, which also splits captions at rarer characters
    except FileNotFoundError:
        raise InputError(str(path), "no manifest here; build it with `one-peace samples`") from None
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"is no manifest, it is not UTF-8 ({error})") from error
    items: list[Item] = []
    captions: dict[str, dict[str, list[str]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["path"] = root / row["path"]
            if "texts" not in row:
                row["texts"] = captions[row["item"]]
            item = Item(**row)
            captions[item.id] = item.texts
            items.append(item)
        except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}, line {number}", f"not an item of a manifest ({error})") from error
    return items
