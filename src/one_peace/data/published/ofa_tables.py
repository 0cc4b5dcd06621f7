"""OFA's own published tables, which have no header and hold pictures as base64, as tables that tasks read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow
from one_peace.errors import InputError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "captions": ("uniq_id", "image_id", "caption", "objects", "image"),
    "boxes": ("uniq_id", "image_id", "text", "region_coord", "image"),
    "questions": ("uniq_id", "image_id", "question", "answers", "objects", "image"),
    "statements": ("uniq_id", "image_id", "image", "hypothesis", "caption", "label"),
    "labels": ("image", "number", "label"),
    "drawings": ("uniq_id", "codes", "caption"),
    "mixture": ("uniq_id", "image", "caption", "question", "refs", "objects", "dataset", "type"),
}
"""What is in a table -> its columns in order (spec of the published data readers)."""


def ofa_table(what: str, source: Path) -> Converted:
    """Every `.tsv` in `source`, each a table of the same name."""
    names = COLUMNS[what]
    files = sorted(source.glob("*.tsv"))
    if not files:
        raise InputError(str(source), "holds no .tsv")

    def rows() -> Iterator[SplitRow]:
        for path in files:
            with path.open(encoding="utf-8", newline="\n") as file:
                for number, line in enumerate(file, 1):
                    values = line.rstrip("\r\n").split("\t")
                    if len(values) != len(names):
                        problem = f"has {len(values)} columns; a table of {what} has {len(names)}: {', '.join(names)}"
                        raise InputError(f"{path}, line {number}", problem)
                    yield SplitRow(path.stem, _named(what, dict(zip(names, values, strict=True)), number), ())

    return Converted(rows())


def _named(what: str, row: dict[str, str], number: int) -> dict[str, str]:
    if what == "mixture":  # one column holds answers or a box, by the row's type
        kept = {name: value for name, value in row.items() if name != "refs"}
        boxed = row["type"] == "visual_grounding"
        return {**kept, "answers": "" if boxed else row["refs"], "region_coord": row["refs"] if boxed else ""}
    if "uniq_id" not in row:
        return {"uniq_id": str(number), **row}
    if what in ("captions", "boxes", "questions", "statements"):
        # the picture last: it is long, and what is read first should not come after it
        return {name: row[name] for name in (*(n for n in row if n != "image"), "image")}
    return row


OFA_TABLES: Mapping[str, Callable[[Path], Converted]] = {f"ofa-{what}": partial(ofa_table, what) for what in COLUMNS}
