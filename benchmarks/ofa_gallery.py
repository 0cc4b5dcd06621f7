"""What a small OFA says of pictures: `python benchmarks/ofa_gallery.py TABLES RUNS`.

TABLES is by `one-peace prepare ofa-nano`, RUNS by `ofa.py`. Every so-manyth row of each test table is shown, without
choice: captions of pictures that were trained on and of others, boxes of phrases (the true one dashed) and answers to
questions. Writes docs/ofa.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from one_peace.cache import table_cache
from one_peace.data.task_rows import TaskRows
from one_peace.media.pictures import decode_picture
from one_peace.models import Ofa, from_pretrained
from one_peace.tasks.grounding import parse_box
from one_peace.tasks.task import media_columns

COLUMNS = 6
FOUND, TRUE = "#2662d9", "#d9822b"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "ofa.png")
    options = parser.parse_args()
    figure, axes = pyplot.subplots(5, COLUMNS, figsize=(2.1 * COLUMNS, 12.5))
    rows = shown(options.tables / "seen_captions.tsv", ("image", "caption"), COLUMNS)
    rows += shown(options.tables / "test_captions.tsv", ("image", "caption"), COLUMNS)
    show_captions(opened(options.runs / "ofa-nano-captions-cider"), rows, axes[:2].ravel())
    rows = shown(options.tables / "test_boxes.tsv", ("image", "text", "region_coord"), 2 * COLUMNS)
    show_boxes(opened(options.runs / "ofa-nano-boxes"), rows, axes[2:4].ravel())
    rows = shown(options.tables / "test_questions.tsv", ("image", "question", "answer"), COLUMNS)
    show_answers(opened(options.runs / "ofa-nano-questions"), rows, axes[4].ravel())
    figure.tight_layout(h_pad=1.2)
    figure.savefig(options.out, dpi=64)
    print(f"in {options.out}")


def opened(run: Path) -> Ofa:
    model = from_pretrained(run / "model")
    assert isinstance(model, Ofa)
    return model


def shown(table: Path, columns: Sequence[str], count: int) -> list[dict[str, Any]]:
    """So many rows at equal distances."""
    rows = [row for _, row in TaskRows(table, columns, media_columns(), table_cache()) if isinstance(row, dict)]
    return rows[:: len(rows) // count][:count]


def show_captions(model: Ofa, rows: list[dict[str, Any]], axes: Sequence[Axes]) -> None:
    written = model.caption([row["image"] for row in rows])
    for axis, row, text in zip(axes, rows, written, strict=True):
        show(axis, row["image"], text, f"({row['caption'].split('&&')[0]})")


def show_boxes(model: Ofa, rows: list[dict[str, Any]], axes: Sequence[Axes]) -> None:
    found = model.locate([row["image"] for row in rows], [row["text"] for row in rows])
    for axis, row, box in zip(axes, rows, found, strict=True):
        show(axis, row["image"], row["text"], "")
        true = parse_box(row["region_coord"], row["text"]).tolist()
        for (x0, y0, x1, y1), colour, line in ((true, TRUE, "--"), (box, FOUND, "-")):
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linestyle=line, lw=2))


def show_answers(model: Ofa, rows: list[dict[str, Any]], axes: Sequence[Axes]) -> None:
    answers = model.answer([row["image"] for row in rows], [row["question"] for row in rows])
    for axis, row, answer in zip(axes, rows, answers, strict=True):
        show(axis, row["image"], row["question"], f"{answer} ({row['answer']})")


def show(axis: Axes, picture: Any, above: str, below: str) -> None:
    axis.imshow(decode_picture(picture))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(wrapped(above), fontsize=8)
    axis.set_xlabel(wrapped(below), fontsize=8)


def wrapped(text: str, width: int = 28) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:3])


if __name__ == "__main__":
    main()
