"""`one-peace embed`: pictures, sounds and texts to a file of vectors, or a folder of them to many such files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from one_peace.atomic_files import replacing
from one_peace.cli.imports import Imports
from one_peace.cli.text_files import read_text
from one_peace.progress_bar import bar
from one_peace.readable_json import readable_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from one_peace.models.embedding import EmbeddingModel

MOST_BYTES = 2 << 30  # of the names of inputs in a .npz file


def embed(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Pictures, sounds and text files, whose kind follows the ending; or one folder."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A .npz file (vectors, inputs, modalities) or a .jsonl file; of a folder, a folder.",
            show_default="embeddings.npz; of a folder, embeddings",
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text; repeatable.")] = None,
    lines: Annotated[Path | None, typer.Option(help="A file with a text on every line, which may be empty.")] = None,
    model: Annotated[str, typer.Option(help="Name or path of a model.")] = "one-peace-nano",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out what cannot be read instead of stopping. A folder's always is.")
    ] = False,
    imports: Imports = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of a folder: processes.", show_default="one per core or card")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Of a folder: files in each part of the output.", show_default="1000")
    ] = None,
    format: Annotated[
        Literal["parquet", "lance"] | None,
        typer.Option(help="Of a folder: lance is one LanceDB table.", show_default="parquet"),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(
            help="Of a folder: where to work; ray is a Ray cluster, RAY_ADDRESS says which.", show_default="local"
        ),
    ] = None,
) -> None:
    """Embed files and texts, row i of the output belongs to input i; or a folder, in parts, to go on after any stop."""
    if files and len(files) == 1 and files[0].is_dir():
        if text or lines is not None:
            raise typer.BadParameter("a folder is embedded by itself, without --text and --lines")
        _embed_folder(files[0], out or Path("embeddings"), model, device, workers, shard_size, format, engine)
        return
    of_folders = {"--workers": workers, "--shard-size": shard_size, "--format": format, "--engine": engine}
    if given := [name for name, value in of_folders.items() if value is not None]:
        raise typer.BadParameter(f"{', '.join(given)}: only for a folder, embedded by itself")
    out = out or Path("embeddings.npz")
    inputs = [(path, modality_by_name(path)) for path in files or []]
    texts = list(text or [])
    if lines is not None and (content := read_text(lines)):
        texts += content.removesuffix("\n").split("\n")  # empty ones too: row i is of line i
    if not inputs and not texts:
        raise typer.BadParameter("nothing to embed: give files, --text or --lines")
    if out.suffix not in (".npz", ".jsonl"):
        raise typer.BadParameter(f"--out must end in .npz or .jsonl, got {out}")
    names = [str(path) for path, _ in inputs] + texts
    longest = max(map(len, names))
    if out.suffix == ".npz" and 4 * longest * len(names) > MOST_BYTES:  # before hours of work and not after
        raise typer.BadParameter(
            f"the longest input has {longest:,} characters, for which .npz makes room in every row: use --out X.jsonl"
        )

    from one_peace.errors import InputError
    from one_peace.models.loading import load_embedder
    from one_peace.nn.allocator import keep_freed_memory

    keep_freed_memory()
    loaded = load_embedder(model, device)
    modalities = [modality for _, modality in inputs] + ["text"] * len(texts)
    sources: list[str | Path] = []
    unread: dict[int, InputError] = {}
    for row, (path, kind) in enumerate(inputs):
        try:
            sources.append(read_text(path) if kind == "text" else path)
        except InputError as error:
            if not skip:
                raise
            unread[row] = error
            sources.append("")
    vectors, errors = _encode(loaded, [*sources, *texts], modalities, "skip" if skip else "raise")
    errors = {**errors, **unread}
    for row in sorted(errors):
        typer.echo(f"left out: {errors[row]}", err=True)
    kept = [row for row in range(len(names)) if row not in errors]
    write_embeddings(out, vectors[kept], [names[i] for i in kept], [modalities[i] for i in kept], loaded)
    typer.echo(f"{len(kept)} embeddings of width {loaded.dim} in {out}")


def _embed_folder(
    folder: Path,
    out: Path,
    model: str,
    device: str,
    workers: int | None,
    shard_size: int | None,
    format: str | None,
    engine: str | None,
) -> None:
    from one_peace.data.bulk_work import cores
    from one_peace.models.loading import load_embedder
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.search.bulk import embed_folder
    from one_peace.search.bulk_ray import run_on_ray

    if out.suffix in (".npz", ".jsonl"):
        raise typer.BadParameter(f"{folder} is a folder; --out must be one too, got {out}")
    keep_freed_memory()
    loaded = load_embedder(model, device)
    if workers is None:
        import torch

        workers = torch.cuda.device_count() or cores()
    report = embed_folder(
        folder,
        out,
        loaded,
        model,
        format=format or "parquet",
        shard_size=shard_size or 1000,
        workers=workers,
        run=run_on_ray if engine == "ray" else None,
        track=bar("embedding"),
    )
    typer.echo(
        f"{report.rows} embeddings of {report.items - report.problems} files in {out}, {report.problems} with problems "
        f"(named in its .json files); {report.shards} shards in {report.seconds:.1f} s"
    )


def modality_by_name(path: Path) -> str:
    """What a file holds, judged by its ending.

    Raises:
        InputError: an ending that no modality has, and which of a file that is not there, or of a folder.
    """
    from one_peace.errors import InputError
    from one_peace.modalities import list_modalities
    from one_peace.search.file_kinds import kind_of, kinds_for

    modality = kind_of(path, kinds_for(list_modalities()))
    if modality is None:
        problem = f"neither picture nor sound nor text, judged by its ending {path.suffix!r}; texts on lines: --lines"
        if not path.exists():
            problem = "no such file"
        elif path.is_dir():
            problem = "is a folder, which is embedded by itself"
        raise InputError(str(path), problem)
    return modality


def _encode(
    model: EmbeddingModel, sources: Sequence[str | Path], modalities: Sequence[str], on_error: Literal["raise", "skip"]
) -> tuple[NDArray, dict[int, Exception]]:
    """Vectors (inputs, dim), and the errors of inputs that were skipped, whose rows stay zero."""
    import numpy as np

    vectors = np.zeros((len(sources), model.dim), np.float32)
    errors: dict[int, Exception] = {}
    for modality in dict.fromkeys(modalities):
        rows = [i for i, kind in enumerate(modalities) if kind == modality]
        chosen = [sources[i] for i in rows]
        if on_error == "raise":
            vectors[rows] = model.encode_modality(modality, chosen).numpy()
            continue
        result = model.encode_modality(modality, chosen, on_error="skip")
        errors |= {rows[i]: error for i, error in result.errors.items()}
        vectors[[rows[i] for i in result.kept]] = result.vectors.numpy()
    return vectors, errors


def write_embeddings(
    out: Path, vectors: NDArray, inputs: Sequence[str], modalities: Sequence[str], model: EmbeddingModel
) -> None:
    """Writes vectors (n, dim) float32 with what they belong to, and the model's name and fingerprint."""
    import numpy as np

    out.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = model.fingerprint
    if out.suffix == ".npz":
        with replacing(out) as partial, partial.open("wb") as archive:
            np.savez(
                archive,
                vectors=vectors,
                inputs=np.array(inputs),
                modalities=np.array(modalities),
                model=np.array(model.config.name),
                fingerprint=np.array(fingerprint),
            )
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8") as file:
        for vector, name, modality in zip(vectors, inputs, modalities, strict=True):
            row = {"input": name, "modality": modality, "model": fingerprint, "vector": vector.tolist()}
            file.write(readable_json(row) + "\n")
