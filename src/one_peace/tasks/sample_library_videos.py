"""How well a model finds the videos of the sample library: by text, and across pictures and sounds they never met."""

from __future__ import annotations

from collections.abc import Sequence

from one_peace.data.manifest import Item
from one_peace.data.sample_library import animations, emoji
from one_peace.modalities import get_modality
from one_peace.models.one_peace.interface import OnePeace
from one_peace.tasks.sample_library import STAMPS, Embedded, Row, embed_items, held_out, recall_row, same_groups

SOURCES = ("emoji", "animations")  # of the sample library, besides its standard ones
STYLES = {emoji.RENDERED.name: "of the same artist", emoji.DRAWN[0].name: "of another artist"}


def video_rows(model: OnePeace, items: Sequence[Item]) -> list[Row]:
    """All measurements with videos. Relevant is what has the same English caption.

    Texts and sounds look among all videos, seen and held out, and videos among all their texts and all pictures of a
    style. `still` are the middle frames of the same videos, encoded as pictures: what the moving ones are to beat.
    """
    videos = embed_items(model, [i for i in items if i.kind == "video" and i.source == animations.PACKAGE.name])
    sides = {"video": videos, "still": _stills(model, videos)}
    groups = list(dict.fromkeys(i.group for i in videos.items))
    texts = model.encode_text([next(i.texts["en"][0] for i in videos.items if i.group == group) for group in groups])
    words = Embedded([next(i for i in videos.items if i.group == group) for group in groups], texts)
    pictures = {
        style: embed_items(model, [i for i in items if i.kind == "image" and i.source == source])
        for source, style in STYLES.items()
    }
    rows = []
    for subset, keep in (("seen captions", lambda i: not held_out(i)), ("held-out captions", held_out)):
        for name, side in sides.items():
            rows.append(_row(f"{name} -> text", subset, side.select(keep), words))
            rows.append(_row(f"text -> {name}", subset, words.select(keep), side))
        for style, candidates in pictures.items():
            task = f"video -> image {style} (never paired)"
            rows.append(_row(task, subset, videos.select(keep), candidates))
    if "audio" in model.modalities:
        rows += _sound_rows(model, items, videos)
    return rows


def _stills(model: OnePeace, videos: Embedded) -> Embedded:
    frames = [get_modality("video").picture(item.path) for item in videos.items]
    return Embedded(videos.items, model.encode_modality("image", frames))


def _sound_rows(model: OnePeace, items: Sequence[Item], videos: Embedded) -> list[Row]:
    """Words spoken in any language, and sound effects, of things that there is a video of."""
    filmed = {item.group for item in videos.items}
    chosen = [i for i in items if i.kind == "audio" and i.source == STAMPS and i.group in filmed]
    sounds = embed_items(model, [i for i in chosen if i.track in ("speech", "effect")])
    trained = sounds.select(lambda i: i.track == "speech" and not i.heldout_speaker)
    subsets = {
        "spoken, seen clips": trained.select(lambda i: not held_out(i)),
        "spoken, held-out captions": trained.select(held_out),
        "spoken, held-out voices, seen captions": sounds.select(lambda i: i.heldout_speaker and not held_out(i)),
        "sound effects": sounds.select(lambda i: i.track == "effect"),
    }
    return [_row("sound -> video (never paired)", name, some, videos) for name, some in subsets.items() if some.items]


def _row(task: str, subset: str, queries: Embedded, candidates: Embedded) -> Row:
    relevant = same_groups([i.group for i in queries.items], [i.group for i in candidates.items])
    return recall_row(task, subset, queries.vectors, candidates.vectors, relevant)
