"""`one-peace info`: what a model is, how large its parts are and which files hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from one_peace.cli.imports import Imports

if TYPE_CHECKING:
    from torch import nn

    from one_peace.models.one_peace.config import OnePeaceConfig


def info(
    model: Annotated[str, typer.Argument(help="Name or path of a model, or a preset to see its shape.")],
    imports: Imports = None,
) -> None:
    """Show a model's configuration, the size of its parts, its fingerprint and its files."""
    import torch

    from one_peace.checkpoints.registry import built_in_models, resolve
    from one_peace.models.one_peace.loading import from_pretrained
    from one_peace.models.one_peace.model import OnePeaceEncoder
    from one_peace.models.one_peace.presets import list_models, preset

    if model in list_models() and model not in built_in_models() and not Path(model).exists():
        with torch.device("meta"):
            encoder = OnePeaceEncoder(preset(model))
        _print_config(encoder.config)
        _print_sizes(encoder)
        typer.echo("\na preset: a shape to pretrain, without weights")
        return
    path = resolve(model)
    # The fingerprint is the same in every dtype, and this one takes the least memory.
    loaded = from_pretrained(path, dtype="bfloat16")
    _print_config(loaded.config)
    _print_sizes(loaded.encoder)
    typer.echo(f"\nfingerprint  {loaded.fingerprint}")
    typer.echo(f"files        {path}")
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.name if file == path else file.relative_to(path).as_posix()
        typer.echo(f"  {name:32} {_size(file.stat().st_size):>10}")


def _print_config(config: OnePeaceConfig) -> None:
    typer.echo(f"{config.name}: {', '.join(config.modalities)}")
    for key, value in config.to_dict().items():
        if key == "modalities":
            for name, settings in value.items():
                shown = ", ".join(f"{k}={v}" for k, v in settings.items())
                typer.echo(f"  {name:16} {shown}")
        elif key != "name":
            typer.echo(f"  {key:16} {value}")


def _print_sizes(encoder: nn.Module) -> None:
    sizes = parameter_counts((name, p.numel()) for name, p in encoder.named_parameters())
    typer.echo("\nparameters")
    for part, count in sizes.items():
        typer.echo(f"  {part:32} {count:>14,}")
    typer.echo(f"  {'in all':32} {sum(sizes.values()):>14,}")


def parameter_counts(parameters: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sizes summed by part of the encoder: what all modalities share, then each one's adapter, expert and head."""
    from one_peace.checkpoints.names import modality_of

    counts: Counter[str] = Counter()
    for name, count in parameters:
        modality = modality_of(name)
        if modality is None:
            part = "shared attention and norms" if name.startswith("fusion.") else "shared, other"
        elif name.startswith("adapters."):
            part = f"{modality}: adapter"
        elif name.startswith("projections."):
            part = f"{modality}: projection"
        else:
            part = f"{modality}: expert and norm"
        counts[part] += count
    shared = sorted(part for part in counts if part.startswith("shared"))
    return {part: counts[part] for part in [*shared, *(p for p in counts if p not in shared)]}


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
