from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageFont

from one_peace.search import fonts
from one_peace.search.contents import thumbnail_of
from one_peace.search.fonts import fit, font_for, text_width, wrap
from one_peace.search.records import Result
from one_peace.search.sheet import contact_sheet
from one_peace.search.waveform import draw_waveform

STRANGE = [
    "plain",
    "\u041a\u043e\u0442 \u0438 \u0441\u043e\u0431\u0430\u043a\u0430",
    "\u732b\u3068\u72ac" * 40,
    "\U0001f400" * 9,
    "a" * 500,
    "",
    "\n\t\u202e",
]


def result(rank: int, modality: str = "image", caption: str = "a caption", size: int = 100) -> Result:
    picture = Image.new("RGB", (size, 2 * size), (20 * rank % 256, 90, 120))
    thumbnail = None if modality == "text" else thumbnail_of(picture)
    return Result(rank, 1 / rank, Path(f"/media/{rank}.x"), modality, caption, 1.25, thumbnail)


def colors(image: Image.Image) -> int:
    return len(np.unique(np.asarray(image).reshape(-1, 3), axis=0))


def test_sizes_follow_the_answers() -> None:
    sheets = {n: contact_sheet([result(i + 1) for i in range(n)], text=["red"]) for n in (0, 1, 5, 6, 12)}
    assert all(sheet.mode == "RGB" and colors(sheet) > 3 for sheet in sheets.values())
    widths = {n: sheet.width for n, sheet in sheets.items()}
    assert widths[5] == widths[6] == widths[12] > widths[1]
    heights = {n: sheet.height for n, sheet in sheets.items()}
    assert heights[0] < heights[1] == heights[5] < heights[6] < heights[12]
    assert heights[12] - heights[6] == heights[6] - heights[5]


def test_every_answer_shows_its_picture() -> None:
    red = Image.new("RGB", (50, 50), (200, 0, 0))
    answers = [Result(n, 0.5, Path("/a.png"), "image", "red", None, thumbnail_of(red)) for n in (1, 2, 3)]
    pixels = np.asarray(contact_sheet(answers, text=["x"])).astype(int)
    is_red = (pixels[..., 0] > 150) & (pixels[..., 1] < 60)
    assert is_red.sum() >= 3 * 50 * 50


def test_a_sheet_without_answers_says_so() -> None:
    empty = contact_sheet([], text=["red"])
    assert colors(empty.crop((0, empty.height - 36, empty.width, empty.height))) > 1, "blank below the query"


def test_every_part_of_the_query_takes_room() -> None:
    answers = [result(1), result(2, "audio"), result(3, "text", "a long text " * 50)]
    picture = Image.new("RGB", (300, 200), (0, 160, 0))
    sound = (np.sin(np.arange(8000) / 20).astype(np.float32), 16_000)
    plain = contact_sheet(answers, text=["red"])
    full = contact_sheet(answers, text=["red"] * 9, image=[picture] * 9, audio=[sound, sound])
    assert full.height > plain.height and full.width == plain.width
    greens = np.asarray(full).astype(int)
    assert ((greens[..., 1] > 140) & (greens[..., 0] < 60)).sum() > 9 * 5000


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_can_be_drawn(text: str) -> None:
    sheet = contact_sheet([result(1, "text", text), result(2, "audio", text)], text=[text])
    assert colors(sheet) > 3


@pytest.mark.parametrize("text", STRANGE)
def test_text_is_cut_to_its_room(text: str) -> None:
    font = font_for(text, 16)
    assert text_width(fit(text, font, 120), font) <= 120
    lines = wrap(text, font, 120, 4)
    assert len(lines) <= 4 and all(text_width(line, font) <= 120 for line in lines)


def test_short_text_stays_whole() -> None:
    font = font_for("", 16)
    assert fit("short  text", font, 500) == "short text"
    assert " ".join(wrap("some words on several lines", font, 90, 9)) == "some words on several lines"


def test_letters_that_no_font_has_do_not_change_the_font() -> None:
    assert isinstance(font_for("abc", 16), ImageFont.FreeTypeFont)
    assert font_for("\U0010abcd", 16) is font_for("abc", 16)


def test_a_font_that_has_the_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ImageFont.load_default(16)
    many = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 16)
    monkeypatch.setattr(fonts, "_fonts", lambda size: [few, many])
    assert font_for("a cat", 16) is few and font_for("\u043a\u043e\u0442", 16) is many


@pytest.mark.parametrize("samples", [1, 10, 100_000])
def test_waveforms(samples: int) -> None:
    loud = draw_waveform(np.linspace(0, 1, samples, dtype=np.float32), (120, 60))
    assert loud.size == (120, 60) and colors(loud) > 1
    silent = draw_waveform(np.zeros(samples, np.float32), (120, 60))
    assert colors(silent) > 1 and silent.size == (120, 60)


def test_a_long_text_without_spaces_is_cut_with_few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chinese and Japanese are written so; a passage took half a second, a long caption half a minute."""
    measured: list[str] = []
    monkeypatch.setattr(fonts, "text_width", lambda text, font: measured.append(text) or text_width(text, font))
    lines = wrap("\u6c34" * 2000, font_for("\u6c34", 17), 180, 8)
    assert len(lines) == 8 and lines[7].endswith("...") and len(set(map(len, lines[:7]))) == 1
    assert len(measured) < 200
