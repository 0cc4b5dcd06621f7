"""The kinds of files that a library takes in, and how each is read: once, for the model and for the eye."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from one_peace.media.pictures import decode_picture
from one_peace.media.sounds import SAMPLE_RATE, decode_sound
from one_peace.modalities import get_modality, list_modalities
from one_peace.modalities.base import Modality
from one_peace.search.contents import THUMBNAIL, Content, Piece, sound_pieces, thumbnail_of
from one_peace.search.documents import passages_of
from one_peace.search.records import composed
from one_peace.search.videos import read_video
from one_peace.search.waveform import draw_waveform


@dataclass(frozen=True)
class Kind:
    """Files of one sort: the endings of their names, and a reader, which may raise `InputError`.

    `branches` are those of a model of which it takes at least one; the reader is told which there are.
    """

    endings: str  # separated by spaces
    branches: tuple[str, ...]
    read: Callable[[Path, Collection[str]], Content]


def kinds_for(modalities: Collection[str]) -> dict[str, Kind]:
    """By name, the kinds that a model of these modalities can take in, with those of registered modalities."""
    known = {name: kind for name, kind in KINDS.items() if any(branch in modalities for branch in kind.branches)}
    for name in modalities:
        if name not in KINDS and (endings := get_modality(name).endings):
            known[name] = Kind(endings, (name,), partial(_read_other, name))
    return known


def kind_of(path: Path, kinds: dict[str, Kind] | None = None) -> str | None:
    """The kind of a file by its name, or None; of those built in, where no others are given."""
    # x.depth.png is no picture, where depth is known
    for ending in ("".join(path.suffixes[-2:]).lower(), path.suffix.lower()):
        for name, kind in (KINDS if kinds is None else kinds).items():
            if ending and ending in kind.endings.split():
                return name
    return None


def has_pictures(modality: str) -> bool:
    """Whether what a library has of a modality is shown by a picture."""
    if modality in KINDS:
        return modality != "text"
    return modality in list_modalities() and type(get_modality(modality)).picture is not Modality.picture


def _read_picture(path: Path, branches: Collection[str]) -> Content:
    picture = decode_picture(path)
    piece = Piece("image", picture, 3 * picture.width * picture.height)
    return Content([piece], thumbnail=thumbnail_of(picture))


def _read_sound(path: Path, branches: Collection[str]) -> Content:
    waveform: np.ndarray = decode_sound(path)
    drawing = thumbnail_of(draw_waveform(waveform, (THUMBNAIL, THUMBNAIL)))
    return Content(sound_pieces(waveform), duration=len(waveform) / SAMPLE_RATE, thumbnail=drawing)


def _read_text(path: Path, branches: Collection[str]) -> Content:
    passages = passages_of(path)
    captions = [composed(" ".join(passage.split())) for passage in passages]
    labels = [""] if len(passages) == 1 else [f"passage {n} of {len(passages)}" for n in range(1, len(passages) + 1)]
    pieces = [
        Piece("text", passage, len(passage), label=label, caption=caption if label else "")
        for passage, label, caption in zip(passages, labels, captions, strict=True)
    ]
    return Content(pieces, caption=captions[0])


def _read_other(name: str, path: Path, branches: Collection[str]) -> Content:
    """A file of a modality that is known by its contract alone."""
    picture = get_modality(name).picture(path)
    thumbnail = None if picture is None else thumbnail_of(picture)
    return Content([Piece(name, path, path.stat().st_size)], thumbnail=thumbnail)


KINDS = {
    name: Kind(get_modality(name).endings, branches, read)
    for name, branches, read in (
        ("image", ("image",), _read_picture),
        ("audio", ("audio",), _read_sound),
        ("video", ("video", "image", "audio"), read_video),
        ("text", ("text",), _read_text),
    )
}
