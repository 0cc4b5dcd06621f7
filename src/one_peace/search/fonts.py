"""Fonts for drawing any text: Pillow's own for Latin letters, the system's where those do not reach."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Broad coverage first. Pillow looks them up in the folders where the system keeps fonts.
_SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "FreeSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "unifont.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "segoeui.ttf",
    "msyh.ttc",
)


def font_for(text: str, size: int) -> Font:
    """A font of `size` pixels that has all letters of `text`, or the one that has most of them."""
    fonts = _fonts(size)
    if text.isascii():
        return fonts[0]
    letters = {letter for letter in text if not letter.isspace()}
    return max(fonts, key=lambda font: sum(_has(font, letter) for letter in letters))


def text_width(text: str, font: Font) -> float:
    """In pixels."""
    return font.getlength(text)


def fit(text: str, font: Font, width: float) -> str:
    """`text` on one line, cut to `width` pixels with an ellipsis where it is longer."""
    text = " ".join(text.split())
    if text_width(text, font) <= width:
        return text
    return text[: _fitting(text, font, width, "...")].rstrip() + "..."


def wrap(text: str, font: Font, width: float, lines: int) -> list[str]:
    """At most `lines` lines of at most `width` pixels, the last one cut where the text goes on."""
    words = text.split()
    result: list[str] = []
    while words and len(result) < lines - 1:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), font) <= width:
            count += 1
        if count == 1 and text_width(words[0], font) > width:  # a script without spaces, or one long name
            end = max(1, _fitting(words[0], font, width))
            result.append(words[0][:end])
            words[0] = words[0][end:]
        else:
            result.append(" ".join(words[:count]))
            del words[:count]
    if words:
        result.append(fit(" ".join(words), font, width))
    return result


def _fitting(text: str, font: Font, width: float, end: str = "") -> int:
    """How many of the first characters fit into `width` pixels, with `end` behind them."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + end, font) <= width:
            low = middle
        else:
            high = middle - 1
    return low


@lru_cache
def _fonts(size: int) -> list[Font]:
    fonts: list[Font] = [ImageFont.load_default(size)]
    for name in _SYSTEM_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # not on this system
            continue
    return fonts


@lru_cache(maxsize=4096)
def _has(font: Font, letter: str) -> bool:
    """Whether the font draws `letter` in another way than a letter that no font has."""
    return _drawn(font, letter) != _drawn(font, "\U0010fffe")


def _drawn(font: Font, letter: str) -> bytes:
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((8, 8), letter, fill=255, font=font)
    return image.tobytes()
