"""The mixture that a small OFA learns from."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from one_peace.data.published.conversion import Converted, SplitRow
from one_peace.data.sample_tasks import scene_composition
from one_peace.data.sample_tasks.scenes import ANSWERS, compose_scenes, short_names
from one_peace.data.sample_tasks.sources import Sources, side_of

SEEN_EVERY = 25  # trained pictures of which one is also measured on


def ofa_nano(sources: Sources, out: Path) -> Converted:
    """What a small OFA learns from: captions of all pictures with an English one, and of composed scenes boxes,
    questions and the names of all things in them; texts to fill in. Tests are of stamps and scenes that are not trained
    on, `unseen_boxes` of things that are not; `seen_captions` is a part of what is trained on."""
    pictures = [i for i in sources.items if i.kind == "image" and i.texts.get("en")]
    tested = {item.id for item in sources.stamps() if side_of(item) == "test"}
    names = short_names(sources.stamps("train"))

    def rows() -> Iterator[SplitRow]:
        for number, item in enumerate(pictures):
            split = "captions" if item.split == "train" else "test_captions"
            if split == "captions" or item.id in tested:
                caption = "&&".join(item.texts["en"]) if split != "captions" else item.texts["en"][0]
                values = {"uniq_id": item.id, "image": str(item.path), "type": "caption", "caption": caption}
                yield SplitRow(split, values, ("image",))
                if split == "captions" and number % SEEN_EVERY == 0:
                    yield SplitRow("seen_captions", values, ("image",))
        trained = sorted({text for item in pictures if item.split == "train" for text in item.texts["en"]})
        for number, text in enumerate(trained):
            yield SplitRow("texts", {"uniq_id": str(number), "text": text}, ())
        for split, number, scene, rng, path in compose_scenes(sources, out, ("train", "test", "unseen")):
            yield from _of_scene(split, number, scene, rng, path, names)

    return Converted(rows(), {"answers.json": ANSWERS})


def _of_scene(
    split: str, number: int, scene: scene_composition.Scene, rng: random.Random, path: Path, names: Sequence[str]
) -> Iterator[SplitRow]:
    """Everything that can be asked of a scene: a box of each thing, two questions, all things."""
    prefix = "" if split == "train" else f"{split}_"
    common = {"image": str(path)}
    for place, thing in enumerate(scene.things if split == "train" else [rng.choice(scene.things)]):
        phrase, box = scene_composition.referring_phrase(scene, thing, rng), ",".join(map(str, thing.box))
        told = {"type": "visual_grounding", "caption": phrase, "text": phrase, "region_coord": box}
        yield SplitRow(f"{prefix}boxes", {"uniq_id": f"{split}/{number}/{place}", **common, **told}, ("image",))
    if split == "unseen":
        return
    present = {thing.name for thing in scene.things}
    for place in range(2):
        text, answer = scene_composition.question(scene, rng.choice([n for n in names if n not in present]), rng)
        told = {"type": "qa", "question": text, "answer": answer}
        yield SplitRow(f"{prefix}questions", {"uniq_id": f"{split}/{number}/{place}", **common, **told}, ("image",))
    if split == "train":
        listed = "&&".join(f"{','.join(map(str, thing.box))},{thing.name}" for thing in scene.things)
        yield SplitRow("objects", {"uniq_id": str(number), **common, "objects": listed}, ("image",))
