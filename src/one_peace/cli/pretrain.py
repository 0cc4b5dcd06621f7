"""`one-peace pretrain`: one stage of pretraining."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from one_peace.cli.imports import Imports

if TYPE_CHECKING:
    from one_peace.data.manifest import Item
    from one_peace.training.distributed import Processes
    from one_peace.training.dry_run import DryRun


def pretrain(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a .yaml file.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, dotted keys reach inside")] = None,
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it continues.")] = Path("runs/pretrain"),
    library: Annotated[Path | None, typer.Option(help="Root of the sample library's cache.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what a step would cost.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="With --dry-run: number of devices.")] = 1,
    imports: Imports = None,
) -> None:
    """Pretrain a model on pairs of a text and a picture, a sound, or anything else."""
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.training.dry_run import plan_run
    from one_peace.training.progress import Progress
    from one_peace.training.recipe import load_recipe, read_recipe, recipe_to_yaml
    from one_peace.training.run import run_pretraining

    keep_freed_memory()
    if (values := read_recipe("pretrain", recipe, settings or [])).get("family") == "mico":
        train_mico(values, out, library, device, devices if dry_run else None)
        return
    if isinstance(values.get("task"), dict):
        if dry_run:
            raise typer.BadParameter("--dry-run is for recipes of ONE-PEACE and MiCo")
        _pretrain_by_tables(recipe, settings or [], out, device)
        return
    chosen = load_recipe(recipe, settings or [])

    items = partial(_library_items, library, None if chosen.files else chosen.data.sources)
    if dry_run:
        typer.echo(recipe_to_yaml(chosen))
        _print_cost(plan_run(chosen, items(), devices))
        return
    with _joined_with(items, device) as (processes, place, found), Progress(chosen.steps) as progress:
        run_pretraining(chosen, found, out, place, progress.report, processes, progress.tick, library)


def _pretrain_by_tables(recipe: str, settings: list[str], out: Path, device: str) -> None:
    """Pretraining that is a task among others, with rows of tables: OFA's mixture, or coding pictures."""
    from one_peace.training.distributed import join_processes
    from one_peace.training.finetune import finetune
    from one_peace.training.finetune_recipe import load_finetune_recipe
    from one_peace.training.progress import plain_line

    chosen = load_finetune_recipe(recipe, settings, "pretrain")
    with join_processes(device) as (processes, place):
        finetune(chosen, out, place, lambda row: typer.echo(plain_line(row)), processes)


def train_mico(
    values: dict[str, Any], out: Path, library: Path | None, device: str, devices: int | None = None
) -> None:
    """A run of MiCo, or with a number of `devices` only what a step would cost."""
    import yaml

    from one_peace.training.mico.dry_run import plan_mico_run
    from one_peace.training.mico.recipe import MiCoRecipe
    from one_peace.training.mico.run import run_mico
    from one_peace.training.progress import Progress

    chosen = MiCoRecipe.from_dict(values)

    items = partial(_library_items, library, chosen.library_sources if chosen.needs_library else None)
    if devices is not None:
        typer.echo(yaml.safe_dump(chosen.values(), sort_keys=False))
        typer.echo(plan_mico_run(chosen, items(), devices).as_text())
        return
    with _joined_with(items, device) as (processes, place, found), Progress(chosen.steps) as progress:
        run_mico(chosen, found, out, place, progress.report, processes, progress.tick)


def _library_items(library: Path | None, names: Collection[str] | None) -> list[Item]:
    """The sample library, built if it is not there, with what `names` ask for; nothing for a run without it, None."""
    if names is None:
        return []
    from one_peace.data.sample_library import build_sample_library, sources_with

    return build_sample_library(library, sources_with(names), progress=typer.echo).items


@contextmanager
def _joined_with(items: Callable[[], list[Item]], device: str) -> Iterator[tuple[Processes, str, list[Item]]]:
    """This process among those of the run, its device, and the items, which the first process builds."""
    from one_peace.training.distributed import join_processes

    with join_processes(device) as (processes, place):
        if processes.first:
            items()
        processes.wait()  # the others find it built
        yield processes, place, items()


def _print_cost(cost: DryRun) -> None:
    typer.echo(f"{'parameters':32} {'trained':>15} {'frozen':>15}")
    for part, (trained, frozen) in cost.parameters.items():
        typer.echo(f"  {part:30} {trained:15,} {frozen:15,}")
    typer.echo(f"  {'in all':30} {cost.trained:15,} {cost.frozen:15,}")
    typer.echo("\none step, all devices together, with denoising")
    for modality, count in cost.tokens.items():
        typer.echo(f"  {modality + ' tokens':30} {count:15,}")
    typer.echo(f"  {'arithmetic':30} {cost.flops / 1e12:11,.2f} TFLOP")
    typer.echo(f"\nmemory per device, of {cost.devices}")
    for what, size in cost.memory.items():
        typer.echo(f"  {what:30} {size / 2**30:11,.2f} GiB")
    typer.echo(f"  {'in all':30} {sum(cost.memory.values()) / 2**30:11,.2f} GiB")
