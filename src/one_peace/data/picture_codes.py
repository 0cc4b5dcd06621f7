"""Tables of pictures as tables of image codes.

Of captioned pictures, as OFA's published ones are: uniq_id, codes, caption. Of pictures whose middle is to be filled
in: uniq_id, codes (those of the middle), image.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from one_peace.cache import table_cache
from one_peace.data.published.conversion import ConversionReport, Converted, SplitRow, write_tables
from one_peace.data.tables import KEY_COLUMNS
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture
from one_peace.models.vqgan.loading import load_vqgan
from one_peace.models.vqgan.model import Vqgan, pixels_of
from one_peace.nn.device import parse_device

AT_ONCE = 32  # pictures


def make_picture_codes(
    source: Path, coder: Path, size: int, out: Path, *, middle: bool = False, device: str = "cpu"
) -> ConversionReport:
    """A table of codes in `out` for every `.tsv` in `source` that has pictures and captions.

    Pictures are brought to `size` x `size` pixels; a code stands for a square of `config.patch` of them. With `middle`
    the codes are those of the middle of each, of half its width and height, and captions are not needed.

    Raises:
        InputError: no such table, or a picture that cannot be read; names its row.
        CheckpointError: `coder` is no VQGAN.
        ValueError: `size` is no multiple of a code's side, with `middle` of two of them, or there is no such device.
    """
    model = load_vqgan(coder).to(place := parse_device(device))
    side = model.config.patch * (2 if middle else 1)
    if size < 1 or size % side:
        pixels = "twice the pixels" if middle else "the pixels"
        raise ValueError(f"size={size} is no multiple of {side}, {pixels} that a code stands for")
    columns = ("image",) if middle else ("image", "caption")
    tables = list(_tables(source, columns))
    if not tables:
        raise InputError(str(source), f"holds no .tsv with {' and '.join(columns)} among its columns")
    rows = (row for table in tables for row in _rows(table, model, place, size, middle))
    return write_tables(Converted(rows), out, out)


def _tables(source: Path, columns: tuple[str, ...]) -> Iterator[TaskRows]:
    for path in sorted(source.glob("*.tsv")):
        with path.open(encoding="utf-8") as file:
            names = file.readline().rstrip("\r\n").split("\t")
        if set(columns) <= set(names):
            yield TaskRows(path, columns, ("image",), table_cache())


def _rows(table: TaskRows, model: Vqgan, device: torch.device, size: int, middle: bool) -> Iterator[SplitRow]:
    split = Path(table.path).stem
    for start in range(0, len(table), AT_ONCE):
        named, pictures = [], []
        for index in range(start, min(start + AT_ONCE, len(table))):
            key, row = table.row(index)
            try:
                picture = decode_picture(row["image"])
            except InputError as error:
                raise InputError(key, f"column 'image': {error.problem}") from error
            pictures.append(_middle_of(picture, size) if middle else pixels_of(picture, size))
            own = next((str(row[name]) for name in KEY_COLUMNS if row.get(name)), str(index + 1))
            named.append((own, _image(row) if middle else _caption(row)))
        with torch.inference_mode():
            codes = model.encode(torch.stack(pictures).to(device)).flatten(1).tolist()
        for (own, rest), numbers in zip(named, codes, strict=True):
            yield SplitRow(split, {"uniq_id": own, "codes": " ".join(map(str, numbers))} | rest, ())


def _middle_of(picture: Image.Image, size: int) -> Tensor:
    """The middle of a picture as (3, size / 2, size / 2): the whole is stretched to a square, as the model sees it."""
    edge = size // 4
    whole = picture.resize((size, size), Image.Resampling.LANCZOS)
    return pixels_of(whole.crop((edge, edge, size - edge, size - edge)), size - 2 * edge)


def _caption(row: Mapping[str, Any]) -> dict[str, str]:
    return {"caption": str(row["caption"]).partition("&&")[0]}


def _image(row: Mapping[str, Any]) -> dict[str, str]:
    """The picture as a table elsewhere has it: its absolute path, or its contents."""
    image = row["image"]
    return {"image": str(image.resolve()) if isinstance(image, Path) else base64.b64encode(image).decode("ascii")}
