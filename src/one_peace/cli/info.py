"""`one-peace info`: what a model is, how large its parts are and which files hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from one_peace.cli.imports import Imports

if TYPE_CHECKING:
    from one_peace.models.mico.config import MiCoConfig
    from one_peace.models.mico.model import MiCoModel
    from one_peace.models.ofa.model import OfaModel
    from one_peace.models.one_peace.config import OnePeaceConfig
    from one_peace.models.one_peace.model import OnePeaceEncoder


def info(
    model: Annotated[str, typer.Argument(help="Name or path of a model, or a preset to see its shape.")],
    imports: Imports = None,
) -> None:
    """Show a model's configuration, the size of its parts, the fingerprint of its vectors and its files."""
    import torch

    from one_peace.checkpoints.families import family_of
    from one_peace.checkpoints.registry import built_in_models, resolve
    from one_peace.models.loading import from_pretrained
    from one_peace.models.mico import presets as mico
    from one_peace.models.mico.model import MiCoModel
    from one_peace.models.ofa import presets as ofa
    from one_peace.models.ofa.model import OfaModel
    from one_peace.models.one_peace.model import OnePeaceEncoder
    from one_peace.models.one_peace.presets import list_presets, preset

    known = (*list_presets(), *ofa.list_presets(), *mico.list_presets())
    if model in known and model not in built_in_models() and not Path(model).exists():
        with torch.device("meta"):
            if model in list_presets():
                _print_encoder(OnePeaceEncoder(preset(model)))
            elif model in ofa.list_presets():
                _print_ofa(OfaModel(ofa.preset(model)))
            else:
                _print_mico(MiCoModel(mico.preset(model)))
        typer.echo("\na preset: a shape to pretrain, without weights")
        return
    path = resolve(model)
    # The fingerprint is the same in every dtype, and this one takes the least memory.
    if family_of(path) == "ofa":
        from one_peace.models.ofa.loading import load_model, open_saved

        _print_ofa(load_model(open_saved(path), dtype=torch.bfloat16))
    else:
        loaded = from_pretrained(path, dtype="bfloat16")
        if family_of(path) == "mico":
            _print_mico(loaded.encoder)
        else:
            _print_encoder(loaded.encoder)
        typer.echo(f"\nfingerprint  {loaded.fingerprint}")
    typer.echo(f"files        {path}")
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.name if file == path else file.relative_to(path).as_posix()
        typer.echo(f"  {name:32} {_size(file.stat().st_size):>10}")


def _print_encoder(encoder: OnePeaceEncoder) -> None:
    _print_config(encoder.config)
    _print_counts(parameter_counts((name, p.numel()) for name, p in encoder.named_parameters()))


def _print_ofa(model: OfaModel) -> None:
    from one_peace.models.ofa.model import part_of

    typer.echo(f"{model.config.name}: pictures and texts to words, boxes and image codes")
    for key, value in model.config.to_dict().items():
        if key not in ("name", "family"):
            typer.echo(f"  {key:22} {value}")
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    _print_counts(dict(sorted(counts.items())))


def _print_mico(model: MiCoModel) -> None:
    _print_config(model.config)
    names = {"text": "text model", "memory": "memories", "contrast": "embeddings", "temperature": "embeddings"}
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        counts[names.get(part, part)] += parameter.numel()
    _print_counts(dict(sorted(counts.items())))


def _print_config(config: OnePeaceConfig | MiCoConfig) -> None:
    typer.echo(f"{config.name}: {', '.join(config.modalities)}")
    for key, value in config.to_dict().items():
        if key == "modalities":
            for name, settings in value.items():
                shown = ", ".join(f"{k}={v}" for k, v in settings.items())
                typer.echo(f"  {name:16} {shown}")
        elif key != "name":
            typer.echo(f"  {key:16} {value}")


def _print_counts(sizes: dict[str, int]) -> None:
    typer.echo("\nparameters")
    for part, count in sizes.items():
        typer.echo(f"  {part:32} {count:>14,}")
    typer.echo(f"  {'in all':32} {sum(sizes.values()):>14,}")


def parameter_counts(parameters: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sizes summed by part of the encoder: what all modalities share, then each one's adapter, expert and head."""
    from one_peace.checkpoints.one_peace.names import modality_of

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
