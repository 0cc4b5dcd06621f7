"""Tables of captioned pictures as tables of image codes, as OFA's published ones are: uniq_id, codes, caption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from one_peace.cache import table_cache
from one_peace.data.published.conversion import ConversionReport, Converted, SplitRow, write_tables
from one_peace.data.tables import KEY_COLUMNS
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture
from one_peace.models.vqgan.loading import load_vqgan
from one_peace.models.vqgan.model import Vqgan, pixels_of

AT_ONCE = 32  # pictures


def make_picture_codes(source: Path, coder: Path, size: int, out: Path) -> ConversionReport:
    """A table of codes in `out` for every `.tsv` in `source` that has pictures and captions.

    Pictures are brought to `size` x `size` pixels; a code stands for a square of `config.patch` of them.

    Raises:
        InputError: no such table, or a picture that cannot be read; names its row.
        CheckpointError: `coder` is no VQGAN.
        ValueError: `size` is no multiple of a code's side.
    """
    model = load_vqgan(coder)
    if size < 1 or size % model.config.patch:
        raise ValueError(f"size={size} is no multiple of {model.config.patch}, the pixels that a code stands for")
    tables = list(_captioned(source))
    if not tables:
        raise InputError(str(source), "holds no .tsv with the columns image and caption")
    return write_tables(Converted(row for table in tables for row in _rows(table, model, size)), out, out)


def _captioned(source: Path) -> Iterator[TaskRows]:
    for path in sorted(source.glob("*.tsv")):
        with path.open(encoding="utf-8") as file:
            names = file.readline().rstrip("\r\n").split("\t")
        if {"image", "caption"} <= set(names):
            yield TaskRows(path, ("image", "caption"), ("image",), table_cache())


def _rows(table: TaskRows, model: Vqgan, size: int) -> Iterator[SplitRow]:
    split = Path(table.path).stem
    for start in range(0, len(table), AT_ONCE):
        named, pictures = [], []
        for index in range(start, min(start + AT_ONCE, len(table))):
            key, row = table.row(index)
            try:
                pictures.append(pixels_of(decode_picture(row["image"]), size))
            except InputError as error:
                raise InputError(key, f"column 'image': {error.problem}") from error
            own = next((str(row[name]) for name in KEY_COLUMNS if row.get(name)), str(index + 1))
            named.append((own, str(row["caption"]).partition("&&")[0]))
        with torch.inference_mode():
            codes = model.encode(torch.stack(pictures)).flatten(1).tolist()
        for (own, caption), numbers in zip(named, codes, strict=True):
            values = {"uniq_id": own, "codes": " ".join(map(str, numbers)), "caption": caption}
            yield SplitRow(split, values, ())
