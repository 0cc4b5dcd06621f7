"""Emoji in four artists' styles, with names in many languages.

`emojibase-data` says which emoji there are and what they are called; three sets of SVG drawings and one of
rendered pictures show them. Skin tones are left out: they would be hundreds of pictures with one name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from one_peace.data.manifest import Item, Kind, normalise_caption, split_of
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.data.sample_library.rasters import draw_svg, open_raster, pixel_hash, prepare, save
from one_peace.errors import InputError

NAMES = Package("npm", "emojibase-data", "MIT")
ANNOTATIONS = Package("npm", "cldr-annotations-full", "Unicode-3.0")
DRAWN = (
    Package("npm", "@iconify-json/noto", "Apache-2.0"),
    Package("npm", "@iconify-json/twemoji", "CC-BY-4.0"),
    Package("npm", "@iconify-json/openmoji", "CC-BY-SA-4.0"),
)
RENDERED = Package("npm", "@lobehub/fluent-emoji-3d", "MIT")
PACKAGES = (NAMES, ANNOTATIONS, *DRAWN, RENDERED)

# Languages of the names, as the stamps write them, and their folder in `emojibase-data`.
_LANGUAGES = {
    code: code
    for code in ("da", "de", "en", "es", "et", "fi", "fr", "hi", "hu", "it", "ja", "ko", "lt", "nb", "nl")
    + ("pl", "pt", "ru", "sv", "uk")
} | {"zh_CN": "zh", "zh_TW": "zh-hant"}
# Spoken in the stamps, but missing there.
_FURTHER_LANGUAGES = ("be", "bg", "ca", "el", "ro")


@dataclass(frozen=True)
class Emoji:
    """What is known of one emoji; `texts` maps a language to its names, the group is one of the package's."""

    code: str  # hexadecimal code points joined by `-`, without the variation selector
    character: str
    tags: list[str]
    group: str
    texts: dict[str, list[str]]


def emoji_items(packages: list[Fetched], media: Path) -> list[Item]:
    """One item for every emoji and style that has it, without a style's repeated pictures."""
    by_name = {package.name: package for package in packages}
    emojis = read_emojis(by_name[NAMES.name].files / "package", by_name[ANNOTATIONS.name].files)
    items = []
    for package in packages:
        if package.name in (NAMES.name, ANNOTATIONS.name):
            continue
        seen: set[str] = set()
        draw = _rendered(package) if package.name == RENDERED.name else _drawn(package)
        for emoji in emojis:
            style = package.name.rpartition("/")[2]
            item = emoji_item(emoji, package, "image", media / style / f"{emoji.code}.png")
            if not item.path.is_file():
                image = draw(emoji.code)
                if image is None:
                    continue
                try:
                    save(prepare(image, item.id), item.path)
                except InputError:
                    continue
            same = pixel_hash(open_raster(item.path).convert("RGB"))
            if same not in seen:
                seen.add(same)
                items.append(item)
    return items


def emoji_item(emoji: Emoji, package: Fetched, kind: Kind, path: Path, duration: float | None = None) -> Item:
    """An emoji in the style of a package, as a picture or a video."""
    group = normalise_caption(emoji.texts["en"][0])
    return Item(
        id=f"emoji/{package.name.rpartition('/')[2]}/{emoji.code}",
        kind=kind,
        path=path,
        group=group,
        split=split_of(group),
        source=package.name,
        version=package.version,
        licence=package.licence,
        texts=emoji.texts,
        tags=emoji.tags,
        category=f"emoji/{emoji.group}",
        symbol=emoji.group in ("symbols", "flags"),
        duration=duration,
    )


def code_of(hexcode: str) -> str:
    """One spelling for all packages: lower case, without the variation selector that some leave out."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "the package lacks this file; remove its folder to fetch it anew") from None


def read_emojis(names: Path, annotations: Path) -> list[Emoji]:
    """All emoji by code, without skin tones, from the folders of the two packages that name them."""
    labels: dict[str, dict[str, str]] = {}
    for language, folder in _LANGUAGES.items():
        for row in _read_json(names / folder / "data.json"):
            labels.setdefault(code_of(row["hexcode"]), {})[language] = row["label"]
    further = {language: _read_annotations(annotations, language) for language in _FURTHER_LANGUAGES}
    group_names = {int(k): v for k, v in _read_json(names / "meta" / "groups.json")["groups"].items()}
    emojis = []
    for row in _read_json(names / "en" / "data.json"):
        if "group" not in row or group_names[row["group"]] == "component":
            continue  # letters that only make sense in pairs, and bare skin tones
        code = code_of(row["hexcode"])
        character = row["emoji"].replace("\ufe0f", "")
        texts = {language: [text] for language, text in labels[code].items()}
        texts |= {language: [table[character]] for language, table in further.items() if character in table}
        emojis.append(Emoji(code, character, list(row.get("tags", [])), group_names[row["group"]], texts))
    return sorted(emojis, key=lambda emoji: emoji.code)


def _read_annotations(folder: Path, language: str) -> dict[str, str]:
    """Names by character (without variation selectors) in one language."""
    table = _read_json(folder / "package" / "annotations" / language / "annotations.json")
    rows = table["annotations"]["annotations"]
    return {character.replace("\ufe0f", ""): row["tts"][0] for character, row in rows.items() if row.get("tts")}


def _drawn(package: Fetched) -> Callable[[str], Any]:
    folder = package.files / "package"
    icons = _read_json(folder / "icons.json")
    characters = {code_of(code): name for code, name in _read_json(folder / "chars.json").items()}

    def draw(code: str) -> Any:
        name = characters.get(code)
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = icons["icons"].get(name)
        if icon is None:
            return None
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return draw_svg(f"<svg {namespaces} {box}>{icon['body']}</svg>", f"{package.name}/{name}")

    return draw


def _rendered(package: Fetched) -> Callable[[str], Any]:
    files = {code_of(path.stem): path for path in (package.files / "package" / "assets").glob("*.webp")}

    def draw(code: str) -> Any:
        return open_raster(files[code]) if code in files else None

    return draw
