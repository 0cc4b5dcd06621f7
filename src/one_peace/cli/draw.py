"""`one-peace draw`: pictures of what texts say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli.written import Device, Dtype, Json, Model, Vocabulary, open_ofa
from one_peace.readable_json import readable_json


def draw(
    texts: Annotated[list[str], typer.Argument(help="What to draw, a text per picture.")],
    model: Model,
    coder: Annotated[Path, typer.Option(help="The VQGAN of the model's image codes: a folder, or a published file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("drawings"),
    samples: Annotated[int, typer.Option(min=1, help="Pictures drawn of each text.")] = 4,
    temperature: Annotated[
        float, typer.Option(min=0.01, help="Below 1 likelier pictures are drawn, that differ less.")
    ] = 1.0,
    rank: Annotated[
        str | None, typer.Option(help="An embedding model that puts the pictures most like the text first.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other pictures.")] = 0,
    as_json: Json = False,
    tokenizer: Vocabulary = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Draw pictures of what texts say, with an OFA model that learned image codes."""
    from one_peace.models.loading import load_embedder
    from one_peace.models.vqgan.loading import load_vqgan
    from one_peace.tasks.ranked_drawings import rank_drawings

    ofa = open_ofa(model, device, dtype, tokenizer)
    ofa.coder = load_vqgan(coder).to(device)
    encoder = None if rank is None else load_embedder(rank, device)
    out.mkdir(parents=True, exist_ok=True)
    made = ofa.draw(list(texts), samples=samples, temperature=temperature, seed=seed)
    for number, (text, drawn) in enumerate(zip(texts, made, strict=True), 1):
        scores = None
        if encoder is not None:
            drawn, scores = rank_drawings(encoder, text, drawn)
        for place, picture in enumerate(drawn, 1):
            file = out / f"{number:03d}-{place:02d}.png"
            picture.save(file)
            if as_json:
                score = {} if scores is None else {"likeness": round(scores[place - 1], 4)}
                typer.echo(readable_json({"text": text, "drawn": str(file), **score}))
            else:
                typer.echo(str(file))
