"""How well a model retrieves across the sample library: pictures, captions, spoken words, sounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from one_peace.data.manifest import Item
from one_peace.models.one_peace.interface import OnePeace
from one_peace.tasks.retrieval import Recall, measure_recall

STAMPS = "tuxpaint-stamps-default"
CANDIDATES = 125  # captions among which held-out pictures are looked up


@dataclass(frozen=True)
class Row:
    """One line of the report: what was asked of what, recall@1 and recall@10."""

    task: str
    subset: str
    at_1: Recall
    at_10: Recall

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Embedded:
    """Items with their embeddings (n, dim), row by row."""

    items: list[Item]
    vectors: Tensor

    def select(self, keep: Callable[[Item], bool]) -> Embedded:
        """Those of which `keep` is true, in their order."""
        rows = [i for i, item in enumerate(self.items) if keep(item)]
        return Embedded([self.items[i] for i in rows], self.vectors[rows])


def embed_items(model: OnePeace, items: Sequence[Item]) -> Embedded:
    """Embeddings of pictures, sounds or videos; unreadable ones are left out."""
    result = model.encode_modality(items[0].kind, [item.path for item in items], on_error="skip")
    return Embedded([items[i] for i in result.kept], result.vectors)


def report(model: OnePeace, items: Sequence[Item]) -> list[Row]:
    """All measurements. Relevant is what has the same English caption (61 of the pictures' captions repeat)."""
    pictures = embed_items(model, [i for i in items if i.kind == "image" and i.source == STAMPS and not i.symbol])
    rows = picture_text_rows(model, pictures)
    if "audio" in model.modalities:
        sounds = [i for i in items if i.kind == "audio" and i.source == STAMPS and i.track in ("speech", "effect")]
        captions = {i.id: i.texts for i in items if i.kind == "image"}
        rows += sound_rows(model, pictures, embed_items(model, sounds), captions)
    return rows


def picture_text_rows(model: OnePeace, pictures: Embedded) -> list[Row]:
    """Pictures against English captions, both ways: trained on or held out, among `CANDIDATES` captions and all."""
    rows = []
    for subset, keep in (("seen captions", lambda i: i.split == "train"), ("held-out captions", held_out)):
        chosen = pictures.select(keep)
        groups = sorted({i.group for i in chosen.items}, key=lambda g: hashlib.sha256(g.encode()).digest())
        for count in sorted({min(CANDIDATES, len(groups)), len(groups)}):
            some = groups[:count]
            subject = chosen.select(lambda i, some=some: i.group in some)  # type: ignore[misc]
            texts = {i.group: i.texts["en"][0] for i in reversed(subject.items)}
            captions = model.encode_text([texts[g] for g in some])
            relevant = same_groups([i.group for i in subject.items], some)
            name = f"{subset}, {count} captions"
            rows.append(recall_row("image -> text", name, subject.vectors, captions, relevant))
            rows.append(recall_row("text -> image", name, captions, subject.vectors, relevant.t()))
    return rows


def sound_rows(
    model: OnePeace, pictures: Embedded, sounds: Embedded, captions: dict[str, dict[str, list[str]]]
) -> list[Row]:
    """Spoken words and sound effects against captions in their language, and against pictures."""
    pictured = {item.id for item in pictures.items}
    sounds = sounds.select(lambda i: i.item in pictured)
    speech = sounds.select(lambda i: i.track == "speech")
    trained = speech.select(lambda i: not i.heldout_speaker)
    subsets = {
        "seen clips": trained.select(lambda i: i.split == "train"),
        "held-out captions": trained.select(held_out),
        "held-out voices, seen captions": speech.select(lambda i: i.heldout_speaker and i.split == "train"),
        "held-out voices, held-out captions": speech.select(lambda i: i.heldout_speaker and held_out(i)),
        "sound effects, seen": sounds.select(lambda i: i.track == "effect" and i.split == "train"),
        "sound effects, held out": sounds.select(lambda i: i.track == "effect" and held_out(i)),
    }
    for language in sorted({i.language for i in speech.items if i.language}):
        chosen = speech.select(lambda i, language=language: i.language == language and i.split == "train")  # type: ignore[misc]
        if len(chosen.items) >= 30:
            voice = "held-out voice" if chosen.items[0].heldout_speaker else "seen clips"
            subsets[f"{language}, {voice}"] = chosen
    rows = []
    groups = [i.group for i in pictures.items]
    for subset, clips in subsets.items():
        if not clips.items:
            continue
        relevant = same_groups([i.group for i in clips.items], groups)
        rows.append(recall_row("sound -> image (never paired)", subset, clips.vectors, pictures.vectors, relevant))
        spoken = [_caption(i, captions) for i in clips.items]
        texts = sorted(set(spoken))
        vectors = model.encode_text(texts)
        relevant = same_groups(spoken, texts)
        rows.append(recall_row("sound -> text", subset, clips.vectors, vectors, relevant))
        rows.append(recall_row("text -> sound", subset, vectors, clips.vectors, relevant.t()))
    return rows


def held_out(item: Item) -> bool:
    """Whether an item's caption is kept out of training."""
    return item.split != "train"


def _caption(item: Item, captions: dict[str, dict[str, list[str]]]) -> str:
    texts = captions[item.item or ""]
    return texts.get(item.language or "en", texts["en"])[0]


def same_groups(left: list[str], right: list[str]) -> Tensor:
    """Which of two lists of names are equal: (left, right) bool."""
    ids = {name: n for n, name in enumerate(dict.fromkeys(left + right))}
    return torch.tensor([ids[x] for x in left])[:, None] == torch.tensor([ids[x] for x in right])[None, :]


def recall_row(task: str, subset: str, queries: Tensor, candidates: Tensor, relevant: Tensor) -> Row:
    """One line of the report, from unit-length embeddings."""
    return Row(
        task,
        subset,
        measure_recall(queries, candidates, relevant, 1),
        measure_recall(queries, candidates, relevant, 10),
    )


def as_table(rows: Sequence[Row]) -> str:
    """The report as a Markdown table."""
    lines = [
        "| task | subset | queries x candidates | R@1 (95 %) | shuffled | R@10 (95 %) | shuffled |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        a, b = row.at_1, row.at_10
        lines.append(
            f"| {row.task} | {row.subset} | {a.queries} x {a.candidates} "
            f"| {a.value:.3f} ({a.low:.3f}-{a.high:.3f}) | {a.shuffled:.3f} "
            f"| {b.value:.3f} ({b.low:.3f}-{b.high:.3f}) | {b.shuffled:.3f} |"
        )
    return "\n".join(lines)
