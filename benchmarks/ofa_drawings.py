"""What a small OFA draws: `python benchmarks/ofa_drawings.py`, from the names of emoji to pictures of 64 pixels.

Makes the tables (`one-peace prepare emoji-captions`), trains the coder of pictures (`one-peace pretrain vqgan-nano`),
codes the pictures (`one-peace prepare picture-codes`) and trains the model that draws (`one-peace finetune
ofa-nano-drawings`); runs that were interrupted go on. Then an embedding model looks which caption a drawn picture fits
best, of captions that were trained on and of others, beside the same pictures with each other's captions, and beside
the true ones. Writes results/ofa-drawings-DATE.json and docs/ofa-drawings.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from measure import RESULTS, machine
from PIL import Image

from one_peace.cache import table_cache
from one_peace.data.picture_codes import make_picture_codes
from one_peace.data.sample_tasks import make_sample_task
from one_peace.data.task_rows import TaskRows
from one_peace.media.pictures import decode_picture
from one_peace.models import from_pretrained
from one_peace.models.vqgan.loading import load_vqgan
from one_peace.models.vqgan.model import picture_of, pixels_of
from one_peace.nn.allocator import keep_freed_memory
from one_peace.tasks.ranked_drawings import rank_drawings
from one_peace.training.finetuning.recipe import load_finetune_recipe
from one_peace.training.finetuning.run import finetune

SIZE = 64
SPLITS = {"train": "trained on", "test": "not trained on"}
COLUMNS = 6  # of each split in the picture
TEMPERATURE = 0.5  # of the codes' distribution: at 1 what is drawn falls to pieces
CANDIDATES = 8  # drawn pictures of which the encoder chooses one to be shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/drawings"), help="an interrupted run continues")
    parser.add_argument("--library", type=Path, help="root of the sample library's cache")
    parser.add_argument("--encoder", default="one-peace-nano", help="the embedding model that looks at drawings")
    parser.add_argument("--captions", type=int, default=100, help="how many of each split are drawn and told apart")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "docs" / "ofa-drawings.png")
    options = parser.parse_args()
    keep_freed_memory()
    tables, codes = options.runs / "tables", options.runs / "codes"
    if not (tables / "test.tsv").is_file():
        print(make_sample_task("emoji-captions", tables, options.library, say=print))
    coded = train("vqgan-nano", "pretrain", tables, options.runs / "coder")
    if not (codes / "train.tsv").is_file():
        print(make_picture_codes(tables, options.runs / "coder" / "model", SIZE, codes))
    train("ofa-nano-drawings", "finetune", codes, options.runs / "drawings")
    model, encoder = from_pretrained(options.runs / "drawings" / "model"), from_pretrained(options.encoder)
    model.coder = load_vqgan(options.runs / "coder" / "model")
    facts: dict[str, Any] = machine(torch.device("cpu")) | {"coder": coded, "temperature": TEMPERATURE}
    for split in SPLITS:
        rows = shown(tables / f"{split}.tsv", options.captions)
        facts[split] = told_apart(model, encoder, rows)
        print(split, facts[split], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"ofa-drawings-{facts['date']}.json"
    target.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draw_gallery(model, encoder, tables, options.picture)
    print(f"in {target} and {options.picture}")


def train(name: str, folder: str, tables: Path, out: Path) -> dict[str, float]:
    """A run of a shipped recipe, and what its best model says of itself; one that is done is left as it is."""
    recipe = load_finetune_recipe(name, [f"data={tables}"], folder)
    return finetune(recipe, out, "cpu", lambda row: print(name, row, flush=True))


def shown(table: Path, count: int) -> list[dict[str, Any]]:
    """So many rows at equal distances."""
    every = [row for _, row in TaskRows(table, ("image", "caption"), ("image",), table_cache())]
    rows = [row for row in every if isinstance(row, dict)]
    return [rows[number * len(rows) // count] for number in range(min(count, len(rows)))]


def told_apart(model: Any, encoder: Any, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of pictures whose own caption fits best of all rows' captions, or is among ten, and its mean place: one
    drawing of each, the same shuffled, and the true pictures, also through the codes, as small as the drawings."""
    texts = [row["caption"] for row in rows]
    pixels = torch.stack([pixels_of(decode_picture(row["image"]), SIZE) for row in rows])
    with torch.inference_mode():
        through = model.coder.decode(model.coder.encode(pixels))
    drawn = [one[0] for one in model.draw(texts, samples=1, temperature=TEMPERATURE)]
    pictures = {"true": [picture_of(p) for p in pixels], "coded": [picture_of(p) for p in through], "drawn": drawn}
    pictures["shuffled"] = drawn[1:] + drawn[:1]
    words = encoder.encode_text(texts)
    same = torch.arange(len(texts))
    found: dict[str, float] = {"chance": 1 / len(texts)}
    for name, some in pictures.items():
        order = (encoder.encode_image(some) @ words.t()).argsort(dim=1, descending=True)
        places = (order == same[:, None]).int().argmax(dim=1)
        found[f"{name} first"] = float((places == 0).float().mean())
        found[f"{name} in ten"] = float((places < 10).float().mean())
        found[f"{name} place"] = float(1 + places.float().mean())
    return found


def draw_gallery(model: Any, encoder: Any, tables: Path, target: Path) -> None:
    """Of some captions of each split, without choice: the emoji, what its codes say, the likeliest of some drawings,
    and the one that the encoder finds most like the caption."""
    figure, axes = pyplot.subplots(4, 2 * COLUMNS, figsize=(1.25 * 2 * COLUMNS, 5.9))
    rows = [(split, row) for split in SPLITS for row in shown(tables / f"{split}.tsv", COLUMNS)]
    for place, (split, row) in enumerate(rows):
        pixels = pixels_of(decode_picture(row["image"]), SIZE)
        with torch.inference_mode():
            through = model.coder.decode(model.coder.encode(pixels[None]))[0]
        drawn = model.draw(row["caption"], samples=CANDIDATES, temperature=TEMPERATURE)
        best = rank_drawings(encoder, row["caption"], drawn)[0][0]
        pictures: list[Image.Image] = [picture_of(pixels), picture_of(through), drawn[0], best]
        for axis, picture in zip(axes[:, place], pictures, strict=True):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#dddddd")
        title = "\n".join(wrapped(row["caption"]))
        axes[0, place].set_title(title, fontsize=8, color="black" if split == "train" else "#2662d9")
    for axis, name in zip(axes[:, 0], ("emoji", "its codes", "likeliest", f"best of {CANDIDATES}"), strict=True):
        axis.set_ylabel(name, fontsize=9)
    figure.tight_layout(w_pad=0.2, h_pad=0.2)
    figure.savefig(target, dpi=66)


def wrapped(text: str, width: int = 16) -> list[str]:
    """A text in lines, two at most."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:2]


if __name__ == "__main__":
    main()
