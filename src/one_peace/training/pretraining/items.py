"""Which items of the sample library a run may train on, and which captions it must not see."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from one_peace.data.manifest import Item, normalise_caption


def training_items(items: Iterable[Item], partner: str) -> list[Item]:
    """The items that a stage may train on: the training split, no held-out speaker, never a picture with a sound."""
    items = list(items)
    texts = {i.id: i.texts for i in items if i.kind == "image"}
    chosen = [i for i in items if i.kind == partner and i.split == "train" and not i.heldout_speaker]
    # A sound takes the captions of the thing it belongs to; its picture is never seen in the same stage.
    captioned = [i if i.texts else dataclasses.replace(i, texts=texts.get(i.item or "", {})) for i in chosen]
    return [i for i in captioned if i.texts]


def held_out_captions(items: Iterable[Item]) -> set[str]:
    """What no training text may say: the captions of the validation and test splits, normalised, in any language."""
    held_out = (i.texts for i in items if i.split != "train")
    return {normalise_caption(text) for texts in held_out for some in texts.values() for text in some}
