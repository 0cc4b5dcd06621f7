"""What the shipped `mico-nano` has learnt of the sample library: `python benchmarks/mico.py`.

Texts against pictures, sounds, both jointly, and animations, on captions that were trained on and on others; what
matching makes of the first ten of a ranking; and the captions that it writes. Each beside a shuffled control, with 95 %
intervals: Wilson's for shares, the bootstrap's over pictures for the figure of captions. There are no depth or normal
maps in the library, so these are not measured. Writes results/mico-DATE.json and .md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, machine

from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.sample_library.building import build_sample_library
from one_peace.models import from_pretrained
from one_peace.models.mico.interface import MiCo
from one_peace.tasks.caption_metrics.cider import cider_d
from one_peace.tasks.caption_metrics.ptb import tokenize
from one_peace.tasks.mico.retrieval import MiCoRetrievalSettings, measure_tuples
from one_peace.tasks.retrieval import wilson_interval
from one_peace.tasks.retrieval_pairs import RetrievalSet

LIBRARY = ("stamps", "clipart", "emoji", "speech", "animations")  # as in training: the rules of the split are the same
STAMPS = "tuxpaint-stamps-default"
RERANKED = 10
SHARES = (("seen captions", True), ("held-out captions", False))
RESAMPLES, SHUFFLES = 2000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mico-nano")
    parser.add_argument("--most", type=int, default=400, help="clips of a set, spread evenly")
    parser.add_argument("--captions", type=int, default=100, help="pictures of a set that are described")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    items = build_sample_library(options.library, LIBRARY, progress=print).items
    model = from_pretrained(options.model)
    record = {"facts": machine(torch.device("cpu")), "model": options.model, "fingerprint": model.fingerprint}
    record |= measure(model, items, options.most, options.captions)
    options.out.mkdir(parents=True, exist_ok=True)
    base = options.out / f"mico-{record['facts']['date']}"
    base.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    base.with_suffix(".md").write_text(to_markdown(record), encoding="utf-8")
    print(f"wrote {base}.json and .md")


def measure(model: MiCo, items: Sequence[Item], most: int, captions: int) -> dict[str, Any]:
    """All rows, of captions that were trained on and of others."""
    record: dict[str, Any] = {"retrieval": [], "captions": []}
    for name, seen in SHARES:
        for subject, settings, clips in sets_of(items, seen):
            if len(clips) < 2:
                continue
            asked = asked_of(spread(clips, most), settings.modalities)
            record["retrieval"] += retrieval_rows(model, asked, settings, f"{subject}, {name}")
            print(f"{subject}, {name}", flush=True)
        pictures = [clip for clip, item in pictures_of(items) if (item.split == "train") == seen]
        record["captions"].append({"set": name} | caption_row(model, spread(pictures, captions)))
        print(f"captions of pictures, {name}", flush=True)
    return record


Clip = dict[str, Any]
"""What a clip has by modality, and its caption."""


def pictures_of(items: Sequence[Item]) -> list[tuple[Clip, Item]]:
    """The stamps with a real picture."""
    shown = [i for i in items if i.kind == "image" and i.source == STAMPS and not i.symbol]
    return [({"image": i.path, "caption": i.texts["en"][0]}, i) for i in shown if i.texts.get("en")]


def sets_of(items: Sequence[Item], seen: bool) -> list[tuple[str, MiCoRetrievalSettings, list[Clip]]]:
    """What is looked up by what, of captions that were trained on or of others."""

    def settings(modalities: tuple[str, ...], tuples: str) -> MiCoRetrievalSettings:
        return MiCoRetrievalSettings("omni-retrieval", modalities, tuples)

    def wanted(item: Item) -> bool:
        return (item.split == "train") == seen and not item.heldout_speaker

    pictures = {item.id: clip for clip, item in pictures_of(items)}
    sounds = [i for i in items if i.kind == "audio" and i.source == STAMPS and wanted(i) and i.item in pictures]
    effects, speech = (
        [{**pictures[i.item or ""], "audio": i.path} for i in sounds if i.track == track]
        for track in ("effect", "speech")
    )
    moving = [i for i in items if i.kind == "video" and wanted(i)]
    joint = settings(("image", "audio"), "tv%ta%tva")
    return [
        ("pictures", settings(("image",), "tv"), [clip for clip, item in pictures_of(items) if wanted(item)]),
        ("pictures with sound effects", joint, effects),
        ("pictures with spoken names", joint, speech),
        ("animations", settings(("video",), "tv"), [{"video": i.path, "caption": i.texts["en"][0]} for i in moving]),
    ]


def spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """At most so many, evenly."""
    count = min(most, len(clips))
    return [clips[n * len(clips) // count] for n in range(count)]


def asked_of(clips: Sequence[Clip], modalities: Collection[str]) -> RetrievalSet:
    """Clips and their captions; those that are equal but for case, punctuation and a leading article are one."""
    texts: dict[str, tuple[int, str]] = {}
    own = [texts.setdefault(normalise_caption(c["caption"]), (len(texts), c["caption"]))[0] for c in clips]
    relevant = torch.tensor(own)[:, None] == torch.arange(len(texts))
    media = [{name: clip[name] for name in modalities} for clip in clips]
    return RetrievalSet(media, [str(clip) for clip in clips], [text for _, text in texts.values()], relevant)


def retrieval_rows(
    model: MiCo, asked: RetrievalSet, settings: MiCoRetrievalSettings, name: str
) -> list[dict[str, Any]]:
    """A row per tuple and direction: recall by embeddings, and recall@1 with the first ones by matching."""
    plain, asked = measure_tuples(model, asked, settings, "skip")
    matching = MiCoRetrievalSettings(settings.kind, settings.modalities, settings.tuples, RERANKED)
    reranked, _ = measure_tuples(model, asked, matching)
    return [
        {"set": name, "direction": way, "at_1": asdict(one), "at_10": asdict(ten), "matched": asdict(reranked[way][0])}
        for way, (one, _, ten) in plain.items()
    ]


def caption_row(model: MiCo, clips: Sequence[Clip]) -> dict[str, Any]:
    """CIDEr-D, and the share of captions that are the picture's own but for case, punctuation and articles."""
    written: list[str] = []
    for start in range(0, len(clips), 16):
        written += model.caption(image=[clip["image"] for clip in clips[start : start + 16]])  # type: ignore[arg-type]
    own = [clip["caption"] for clip in clips]
    draw = torch.Generator().manual_seed(0)
    cider = torch.tensor(ciders(written, own))
    resampled = cider[torch.randint(len(cider), (RESAMPLES, len(cider)), generator=draw)].mean(dim=1)
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=resampled.dtype)).tolist()
    said = [normalise_caption(text) for text in written]
    right = [normalise_caption(text) for text in own]
    exact = sum(a == b for a, b in zip(said, right, strict=True))
    control_cider, control_exact = 0.0, 0.0
    for _ in range(SHUFFLES):
        order = torch.randperm(len(own), generator=draw).tolist()
        control_cider += sum(ciders([written[n] for n in order], own)) / len(own) / SHUFFLES
        control_exact += sum(said[n] == b for n, b in zip(order, right, strict=True)) / len(own) / SHUFFLES
    exact_low, exact_high = wilson_interval(exact, len(own))
    return {
        "pictures": len(own),
        "CIDEr": {"value": cider.mean().item(), "low": low, "high": high, "shuffled": control_cider},
        "exact": {"value": exact / len(own), "low": exact_low, "high": exact_high, "shuffled": control_exact},
        "examples": [[text, caption] for text, caption in zip(written[:12], own, strict=False)],
    }


def ciders(written: Sequence[str], own: Sequence[str]) -> list[float]:
    """CIDEr-D of each caption, 0 to 10, against the one that the picture has."""
    return cider_d([tokenize(text) for text in written], [[tokenize(text)] for text in own])


def to_markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    facts = record["facts"]
    commit = facts["commit"][:9] + "+" * facts["commit"].endswith("+")
    lines = [
        f"# {record['model']}",
        "",
        f"`python benchmarks/mico.py`, {facts['date']}, {facts['machine']}, commit {commit}, weights "
        f'`{record["fingerprint"]}`. Brackets are 95 % Wilson intervals; "shuffled" permutes which query belongs to '
        f'which answer. "Matched": the first {RERANKED} of the ranking in the order of matching scores. A held-out '
        "caption was never trained on, with any picture, sound or animation.",
        "",
        "| clips | direction | queries x candidates | R@1 (95 %) | shuffled | R@1 matched | R@10 (95 %) | shuffled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in record["retrieval"]:
        one, ten, matched = row["at_1"], row["at_10"], row["matched"]
        lines.append(
            f"| {row['set']} | {row['direction'].replace('_to_', ' -> ')} | {one['queries']} x {one['candidates']} | "
            f"{_shown(one)} | {one['shuffled']:.3f} | {_shown(matched)} | {_shown(ten)} | {ten['shuffled']:.3f} |"
        )
    lines += [
        "",
        "Captions by a beam search, against the one caption that a picture has. The interval of CIDEr-D (0 to 10) is "
        'the bootstrap\'s over pictures; "the very caption" leaves out case, punctuation and a leading article.',
        "",
        "| pictures | of them | CIDEr-D (95 %) | shuffled | the very caption (95 %) | shuffled |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["captions"]:
        cider, exact = row["CIDEr"], row["exact"]
        lines.append(
            f"| {row['set']} | {row['pictures']} | {_shown(cider)} | {cider['shuffled']:.3f} | {_shown(exact)} | "
            f"{exact['shuffled']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _shown(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


if __name__ == "__main__":
    main()
