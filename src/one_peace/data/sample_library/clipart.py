"""Open Clip Art drawings with their titles: public domain, three for every Tux Paint picture.

Half of the package is of no use as picture and caption (user interface icons, generated stars, gradients,
whole collections under one title); those are left out, and so is every drawing that Tux Paint also has.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from one_peace.data.manifest import Item, normalise_caption, split_of
from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.data.sample_library.rasters import draw_svg, likeness_vector, open_raster, pixel_hash, prepare, save
from one_peace.errors import InputError

PACKAGE = Package("debian", "openclipart-svg", "CC-PDDC")

_USELESS_FOLDERS = (
    "buttons/",
    "computer/buttons/",
    "computer/icons/",
    "shapes/",
    "signs_and_symbols/led/",
    "special/",
    "transportation/aiga-symbols/",
    "unsorted/duplicates/",
)
_USELESS_TITLE = re.compile(
    r"gramastar|\bicons?\b|iconset|theme|gradient|\bpattern\b|aiga|etiquette|boating rules|sibmission|\bsvg\b"
    r"|^(?:card|cartes|people|advertising|sallite|various cliparts|map symbols|cross hand drawn)$"
    r"|^(?:untitled|drawing|new)$",
    re.IGNORECASE,
)
# One artist gave all drawings of a set the same title; there the file name tells what is drawn.
_SET_TITLE = re.compile(r"^clipart by nicu buculei|^(?:homes clipart|australian maps)$", re.IGNORECASE)
# Title words about the drawing, not about what is drawn.
_STYLE = re.compile(r"\((?:b and w|colou?r|bw)\)|[_-]bw$|#?\d+$|\.svg$", re.IGNORECASE)

_LARGEST = 1_000_000  # bytes; the few larger drawings take seconds each to draw
_SAME_DRAWING = 0.94  # correlation of thumbnails, from which on two drawings are one


def clipart_items(package: Fetched, media: Path, stamps: list[Item]) -> list[Item]:
    """The useful drawings of the package, without those that repeat a picture of `stamps` or one another."""
    folder = package.files / "usr" / "share" / "openclipart" / "svg"
    if not folder.is_dir():
        raise InputError(str(folder), "the package holds no drawings; remove the package's folder to fetch it anew")
    known = [likeness_vector(open_raster(item.path).convert("RGB")) for item in stamps if item.kind == "image"]
    stamp_vectors = np.stack(known) if known else np.empty((0, 0))
    seen: set[str] = set()
    items = []
    for item, drawing in _drawings(package, folder, media):
        if not item.path.is_file():
            try:
                save(prepare(draw_svg(drawing, item.id), item.id), item.path)
            except InputError:
                continue  # a few of these files from 2005 are broken or draw nothing
        picture = open_raster(item.path).convert("RGB")
        same = pixel_hash(picture)
        if same in seen:
            continue
        if known and float((stamp_vectors @ likeness_vector(picture)).max()) > _SAME_DRAWING:
            continue
        seen.add(same)
        items.append(item)
    return items


def _drawings(package: Fetched, folder: Path, media: Path) -> Iterator[tuple[Item, str]]:
    for path in sorted(folder.rglob("*.svg")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(_USELESS_FOLDERS) or path.stat().st_size > _LARGEST:
            continue
        drawing = path.read_bytes().decode("utf-8", errors="replace")
        title = drawing_title(drawing, path.stem)
        if title is None:
            continue
        group = normalise_caption(title)
        category = name.rpartition("/")[0]
        item = Item(
            id=f"clipart/{name.removesuffix('.svg')}",
            kind="image",
            path=media / name.replace(".svg", ".png"),
            group=group,
            split=split_of(group),
            source=package.name,
            version=package.version,
            licence=package.licence,
            texts={"en": [title]},
            tags=drawing_tags(drawing),
            category=category,
            symbol=category.startswith("signs_and_symbols"),
        )
        yield item, drawing


def drawing_title(drawing: str, file_stem: str) -> str | None:
    """The caption of a drawing, or None when its title says nothing about the picture."""
    match = re.search(r"<dc:title[^>]*?(?:/>|>([^<]*)</dc:title>)", drawing)
    title = html.unescape(html.unescape(match[1] or "")).strip() if match else ""
    if not title or _SET_TITLE.match(title):
        title = file_stem
    if _USELESS_TITLE.search(title.replace("_", " ")):
        return None
    title = " ".join(_STYLE.sub("", title).replace("_", " ").split())
    title = " ".join(_STYLE.sub("", title).split()).strip(" -.,")
    if not 2 <= len(title) <= 120 or not re.search(r"[^\W\d]{2}", title):
        return None
    return title


def drawing_tags(drawing: str) -> list[str]:
    """Keywords of a drawing in the order of the file, without repetitions."""
    subject = re.search(r"<dc:subject[^>]*>(.*?)</dc:subject>", drawing, re.DOTALL)
    words = re.findall(r"<rdf:li(?:\s[^>]*)?>([^<]*)</rdf:li>", subject[1]) if subject else []
    cleaned = (" ".join(html.unescape(word).replace("_", " ").split()) for word in words)
    return list(dict.fromkeys(word for word in cleaned if 2 <= len(word) <= 40 and word.lower() != "unsorted"))
