"""Animated emoji as videos, with the names that the emoji have in many languages.

As with the pictures of emoji, skin tones are left out. The split is by name, so a name that is held out as a picture
is held out as a video.
"""

from __future__ import annotations

import hashlib

from one_peace.data.manifest import Item
from one_peace.data.sample_library.emoji import ANNOTATIONS, NAMES, code_of, emoji_item, read_emojis
from one_peace.data.sample_library.packages import Fetched, Package

PACKAGE = Package("npm", "@lobehub/fluent-emoji-anim-1", "MIT")
PACKAGES = (NAMES, ANNOTATIONS, PACKAGE)
_FRAME = b"ANMF"  # the chunk of a WebP file that holds a frame of an animation


def animation_items(packages: list[Fetched]) -> list[Item]:
    """One item for every emoji that moves; of equal files one. They stay where they were unpacked."""
    by_name = {package.name: package for package in packages}
    package = by_name[PACKAGE.name]
    files = {code_of(path.stem): path for path in sorted((package.files / "package" / "assets").glob("*.webp"))}
    items, seen = [], set()
    for emoji in read_emojis(by_name[NAMES.name].files / "package", by_name[ANNOTATIONS.name].files):
        if emoji.code not in files:
            continue
        content = files[emoji.code].read_bytes()
        seconds = animation_seconds(content)
        digest = hashlib.sha256(content).digest()
        if not seconds or digest in seen:
            continue
        seen.add(digest)
        items.append(emoji_item(emoji, package, "video", files[emoji.code], round(seconds, 3)))
    return items


def animation_seconds(webp: bytes) -> float:
    """How long an animated WebP lasts, 0 for a still one: from the headers of its chunks, without decoding."""
    place, milliseconds, frames = 12, 0, 0
    while place + 8 <= len(webp):
        kind, size = webp[place : place + 4], int.from_bytes(webp[place + 4 : place + 8], "little")
        if kind == _FRAME:
            frames += 1
            milliseconds += int.from_bytes(webp[place + 20 : place + 23], "little")
        place += 8 + size + size % 2
    return milliseconds / 1000 if frames > 1 else 0.0
