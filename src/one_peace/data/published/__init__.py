"""Files of the published benchmarks -> the tables that tasks read."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from one_peace.data.published import captions, pictures, questions, scenes, sentences, sounds, videos
from one_peace.data.published.conversion import ConversionReport, Converted, write_tables
from one_peace.data.published.ofa_tables import OFA_TABLES
from one_peace.errors import InputError

BENCHMARKS: dict[str, Callable[[Path], Converted]] = {
    "coco": captions.coco,
    "coco-captions": captions.coco_captions,
    "flickr30k": captions.flickr30k,
    "audiocaps": captions.audiocaps,
    "clotho": captions.clotho,
    "macs": captions.macs,
    "esc50": sounds.esc50,
    "fsd50k": sounds.fsd50k,
    "vggsound": sounds.vggsound,
    "vqa": questions.vqa,
    "avqa": questions.avqa,
    "refcoco": pictures.refcoco,
    "nlvr2": pictures.nlvr2,
    "imagenet": pictures.imagenet,
    "msrvtt": videos.msrvtt,
    "msvd": videos.msvd,
    "nyu-d": scenes.nyu_d,
    "sun-d": scenes.sun_d,
    "snli-ve": sentences.snli_ve,
    "gigaword": sentences.gigaword,
    **sentences.GLUE_CONVERTERS,
    **OFA_TABLES,
}


def convert_benchmark(name: str, source: Path, out: Path) -> ConversionReport:
    """Tables of a benchmark from its own public files in `source`, as its converter's docstring describes them.

    Raises:
        ValueError: an unknown benchmark.
        InputError: a file or field that is missing or something else than is published, or no row with its media.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    try:
        return write_tables(BENCHMARKS[name](source), source, out)
    except (KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        # Fields that are missing are named where they are read; this is for values of another kind.
        problem = f"is not as {name} is published: {type(error).__name__}: {error}"
        raise InputError(str(source), problem) from error
