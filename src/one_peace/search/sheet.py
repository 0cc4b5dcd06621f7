"""A contact sheet: what was asked on top, the ranked answers below, as one picture to look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from one_peace.media.pictures import decode_picture
from one_peace.media.sounds import decode_sound
from one_peace.media.sources import describe, local_path
from one_peace.search.fonts import fit, font_for, text_width, wrap
from one_peace.search.records import Result
from one_peace.search.waveform import draw_waveform

_TILE = 216
_LABEL = 62
_GAP = 18
_COLUMNS = 5
_CHIP = 96  # height of a picture or sound in the query
_PAPER, _CARD, _EDGE = (246, 247, 249), (255, 255, 255), (222, 226, 232)
_INK, _SOFT, _ACCENT = (24, 30, 42), (108, 117, 132), (38, 98, 217)


def contact_sheet(
    results: Sequence[Result],
    *,
    text: Sequence[str] = (),
    image: Sequence[Any] = (),
    audio: Sequence[Any] = (),
) -> Image.Image:
    """RGB picture of the query and its answers in order of rank, five to a row.

    Args:
        text, image, audio: the inputs of the query, in any form that the model takes.

    Raises:
        InputError: a picture or sound of the query that cannot be read.
    """
    columns = max(1, min(_COLUMNS, len(results)))
    width = max(columns, 3) * (_TILE + _GAP) + _GAP
    header = _header(width, text, image, audio)
    rows = -(-len(results) // columns)
    height = header.height + rows * (_TILE + _LABEL + _GAP) + (0 if results else 2 * _GAP)
    sheet = Image.new("RGB", (width, height), _PAPER)
    sheet.paste(header, (0, 0))
    if not results:
        ImageDraw.Draw(sheet).text((_GAP, header.height), "nothing found", _SOFT, font_for("", 16))
    for i, result in enumerate(results):
        left = _GAP + i % columns * (_TILE + _GAP)
        top = header.height + i // columns * (_TILE + _LABEL + _GAP)
        sheet.paste(_tile(result), (left, top))
    return sheet


def _header(width: int, texts: Sequence[str], images: Sequence[Any], sounds: Sequence[Any]) -> Image.Image:
    """The parts of the query in a flow from left to right."""
    chips = [_text_chip(text, width - 2 * _GAP) for text in texts]
    chips += [_picture_chip(decode_picture(picture), "") for picture in images]
    for sound in sounds:
        chips.append(_picture_chip(draw_waveform(decode_sound(sound), (2 * _CHIP, _CHIP)), _name(sound)))
    places: list[tuple[int, int]] = []
    left, top, row = _GAP, _GAP, 0
    for chip in chips:
        if left > _GAP and left + chip.width > width - _GAP:
            left, top, row = _GAP, top + row + 10, 0
        places.append((left, top))
        left, row = left + chip.width + 12, max(row, chip.height)
    header = Image.new("RGB", (width, top + row + _GAP), _PAPER)
    for chip, (left, top) in zip(chips, places, strict=True):
        header.paste(chip, (left, top))
    return header


def _text_chip(text: str, width: int) -> Image.Image:
    font = font_for(text, 26)
    text = fit(text, font, width - 8)
    chip = Image.new("RGB", (int(text_width(text, font)) + 8, 40), _PAPER)
    ImageDraw.Draw(chip).text((0, 20), text, _INK, font, anchor="lm")
    return chip


def _picture_chip(picture: Image.Image, name: str) -> Image.Image:
    shown = picture.copy()
    shown.thumbnail((3 * _CHIP, _CHIP), Image.Resampling.LANCZOS)
    label = 22 if name else 0
    chip = Image.new("RGB", (shown.width + 2, shown.height + 2 + label), _PAPER)
    draw = ImageDraw.Draw(chip)
    draw.rectangle((0, 0, shown.width + 1, shown.height + 1), outline=_EDGE)
    chip.paste(shown, (1, 1))
    if name:
        font = font_for(name, 14)
        draw.text((0, shown.height + 6), fit(name, font, chip.width), _SOFT, font)
    return chip


def _tile(result: Result) -> Image.Image:
    tile = Image.new("RGB", (_TILE, _TILE + _LABEL), _PAPER)
    draw = ImageDraw.Draw(tile)
    draw.rounded_rectangle((0, 0, _TILE - 1, _TILE + _LABEL - 1), 10, _CARD, _EDGE)
    inner = _TILE - 16
    if result.thumbnail is not None:
        picture = Image.open(io.BytesIO(result.thumbnail)).convert("RGB")
        scale = min(inner / picture.width, inner / picture.height, 2.0)  # small drawings are shown larger
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        tile.paste(picture, ((_TILE - size[0]) // 2, 8 + (inner - size[1]) // 2))
    else:
        _draw_text(draw, result.caption, inner)
    bottom = _TILE + 4
    small = font_for("", 14)
    rank = f"{result.rank}"
    draw.text((12, bottom), rank, _ACCENT, font_for(rank, 20))
    score = f"{result.score:.3f}"
    if result.duration is not None:
        score = f"{result.duration:.1f} s   {score}"
    draw.text((_TILE - 12, bottom + 4), score, _SOFT, small, anchor="ra")
    caption = result.path.name if result.modality == "text" else result.caption
    font = font_for(caption, 15)
    draw.text((12, bottom + 30), fit(caption, font, _TILE - 24), _INK, font)
    return tile


def _draw_text(draw: ImageDraw.ImageDraw, text: str, inner: int) -> None:
    font = font_for(text, 17)
    for i, line in enumerate(wrap(text, font, inner - 16, 8)):
        draw.text((16, 20 + 23 * i), line, _INK, font)


def _name(source: Any) -> str:
    path = local_path(source)
    return path.name if isinstance(path, Path) else describe(source)
