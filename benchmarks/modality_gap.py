"""Are answers of several modalities ranked fairly? `python benchmarks/modality_gap.py MANIFEST [--clips 1500]`.

On the Tux Paint stamps of the sample library: pictures, their English captions, and sounds (effects, and spoken
descriptions of speakers that were trained on) in one library. Queries are trained items whose caption has answers in
all three modalities; right are all other items of that caption. Ranked by cosine similarity, by that above the mean of
the branch, and by standing.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
from measure import machine, write_result

import one_peace
from one_peace.data.manifest import Item, load_manifest
from one_peace.search.calibration import Calibration, Moments

K = 10
QUERIES = 300
STAMPS = "tuxpaint-stamps-default"


@dataclasses.dataclass
class Branch:
    """Items of one modality: vectors (n, dim), and of each its group (what it shows) and whether it was trained on."""

    vectors: np.ndarray
    groups: list[str]
    trained: list[bool]


@dataclasses.dataclass
class Row:
    """Means over queries: the share of each branch among the first `K` answers, the share of right ones, and the share
    of the branches with right answers of which one is there."""

    query: str
    ranking: str
    shares: dict[str, float]
    precision: float
    coverage: float


def compare(branches: dict[str, Branch]) -> list[Row]:
    """All rankings for queries of each branch; and as a last one, what the right answers are."""
    names = list(branches)
    calibration = Calibration({n: Moments.of(branches[n].vectors) for n in names}, 0)
    vectors = np.concatenate([branches[n].vectors for n in names])
    groups = np.array([group for n in names for group in branches[n].groups])
    branch = np.array([n for n in names for _ in branches[n].groups])
    starts = dict(zip(names, np.cumsum([0, *(len(branches[n].groups) for n in names)]).tolist(), strict=False))
    shared = set.intersection(
        *({g for g, trained in zip(b.groups, b.trained, strict=True) if trained} for b in branches.values())
    )
    rows = []
    for name in names:
        asked = [i for i, g in enumerate(branches[name].groups) if g in shared and branches[name].trained[i]]
        np.random.default_rng(0).shuffle(asked)
        found: dict[str, list[list[float]]] = {"cosine": [], "centred": [], "standing": [], "(right answers)": []}
        for i in asked[:QUERIES]:
            query = branches[name].vectors[i]
            right = groups == branches[name].groups[i]
            right[starts[name] + i] = False
            cosine = vectors @ query
            centred, standing = np.empty_like(cosine), np.empty_like(cosine)
            for other in names:
                own = cosine[branch == other]
                centred[branch == other] = own - own.mean()
                mean, deviation = calibration.usual(query, other)
                standing[branch == other] = (own.astype(np.float64) - mean) / deviation
            for ranking, scores in (("cosine", cosine), ("centred", centred), ("standing", standing)):
                scores = scores.copy()
                scores[starts[name] + i] = -np.inf
                first = np.argsort(-scores, kind="stable")[:K]
                covered = len(set(branch[first][right[first]])) / len(set(branch[right]))
                shares = [float((branch[first] == other).mean()) for other in names]
                found[ranking].append([*shares, float(right[first].mean()), covered])
            found["(right answers)"].append([*(float((branch[right] == other).mean()) for other in names), 1.0, 1.0])
        for ranking, values in found.items():
            *shares, precision, coverage = np.mean(values, axis=0).tolist()
            rows.append(Row(name, ranking, dict(zip(names, shares, strict=True)), precision, coverage))
    return rows


def embed(model: one_peace.OnePeace, items: list[Item], clips: int) -> dict[str, Branch]:
    pictures = [i for i in items if i.kind == "image" and i.source == STAMPS and not i.symbol]
    captions = {i.group: i for i in reversed(pictures)}
    sounds = [i for i in items if i.kind == "audio" and i.source == STAMPS and not i.symbol]
    effects = [i for i in sounds if i.track == "effect"]
    speech = [i for i in sounds if i.track == "speech" and not i.heldout_speaker]
    random.Random(0).shuffle(speech)
    branches = {}
    for name, some in (("image", pictures), ("audio", effects + speech[:clips]), ("text", [*captions.values()])):
        sources = [i.texts["en"][0] for i in some] if name == "text" else [i.path for i in some]
        result = model.encode_modality(name, sources, on_error="skip")
        kept = [some[i] for i in result.kept]
        trained = [i.split == "train" for i in kept]
        branches[name] = Branch(result.vectors.numpy(), [i.group for i in kept], trained)
    return branches


def as_table(rows: list[Row]) -> str:
    names = list(rows[0].shares)
    lines = [
        f"| query | ranked by | {' | '.join(names)} | right | branches with a right one |",
        "|---|---|" + "---|" * (len(names) + 2),
    ]
    for row in rows:
        shares = " | ".join(f"{row.shares[name]:.2f}" for name in names)
        lines.append(f"| {row.query} | {row.ranking} | {shares} | {row.precision:.3f} | {row.coverage:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="manifest.jsonl of the sample library")
    parser.add_argument("--model", default="one-peace-nano")
    parser.add_argument("--clips", type=int, default=1500, help="spoken descriptions")
    given = parser.parse_args()
    model = one_peace.from_pretrained(given.model)
    rows = compare(embed(model, load_manifest(given.manifest), given.clips))
    print(as_table(rows))
    facts = machine(torch.device("cpu")) | {"model": given.model, "clips": given.clips}
    print(write_result("modality_gap", facts | {"rows": [dataclasses.asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
