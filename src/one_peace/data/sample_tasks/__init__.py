"""Tables of fine-tuned tasks from real data that installs by package name: one maker per table.

The sample library gives pictures, words and spoken descriptions, further packages drums, questions about drawn shapes
and backgrounds. Scenes are composed of real cut-outs. Splits keep captions, kits or scenes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from one_peace.cache import cache_folder
from one_peace.data.published.conversion import ConversionReport, write_tables
from one_peace.data.sample_library.building import build_sample_library
from one_peace.data.sample_tasks import ofa, pictures, scenes, sounds
from one_peace.data.sample_tasks.sources import Maker, Sources

SAMPLE_TASKS: dict[str, Maker] = {
    "stamp-categories": pictures.stamp_categories,
    "emoji-groups": pictures.emoji_groups,
    "emoji-keywords": pictures.emoji_keywords,
    "emoji-captions": pictures.emoji_captions,
    "stamp-captions": pictures.captions,
    "drums": sounds.drums,
    "drum-answers": sounds.drum_answers,
    "easy-vqa": pictures.easy_vqa,
    "spoken-answers": sounds.spoken_answers,
    "scene-boxes": scenes.scene_boxes,
    "scene-questions": scenes.scene_questions,
    "scene-pairs": scenes.scene_pairs,
    "ofa-nano": ofa.ofa_nano,
}


def make_sample_task(
    name: str, out: Path, root: Path | None = None, say: Callable[[str], None] | None = None
) -> ConversionReport:
    """Tables of one task in `out`, from packages in the cache `root`.

    Raises:
        ValueError: an unknown task.
        DownloadError: a package that cannot be had.
    """
    if name not in SAMPLE_TASKS:
        raise ValueError(f"unknown sample task {name!r}; known: {', '.join(SAMPLE_TASKS)}")
    report = say or (lambda line: None)
    cache = cache_folder() if root is None else root
    wanted: tuple[str, ...] = ("stamps", "emoji") if name.startswith("emoji") else ("stamps",)
    if name == "ofa-nano":
        wanted = ("stamps", "emoji", "clipart")
    library = build_sample_library(cache, wanted, progress=report)
    sources = Sources(cache, library.items, report)
    out = out.resolve()  # rows name their pictures in it
    return write_tables(SAMPLE_TASKS[name](sources, out), out, out)
