"""`one-peace pretrain`: one stage of pretraining."""

from __future__ import annotations

import dataclasses
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
    from one_peace.errors import InputError
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.recipe_files import read_recipe
    from one_peace.training.dry_run import plan_run, plan_without_pairs
    from one_peace.training.pretraining.recipe import load_recipe, recipe_to_yaml
    from one_peace.training.pretraining.run import run_pretraining
    from one_peace.training.progress import Progress

    keep_freed_memory()
    if (values := read_recipe("pretrain", recipe, settings or [])).get("family") == "mico":
        train_mico(values, out, library, device, devices if dry_run else None)
        return
    if isinstance(values.get("task"), dict):
        _pretrain_by_tables(recipe, settings or [], out, device, devices if dry_run else None)
        return
    chosen = load_recipe(recipe, settings or [])

    items = partial(_library_items, library, None if chosen.files else chosen.data.sources)
    if dry_run:
        typer.echo(recipe_to_yaml(chosen))
        try:
            typer.echo(plan_run(chosen, items(), devices).as_text())
        except InputError:
            if (most := plan_without_pairs(chosen, devices)) is not None:
                typer.echo(f"with the longest pairs that there can be:\n\n{most.as_text()}\n")
            raise
        return
    with _joined_with(items, device) as (processes, place, found), Progress(chosen.steps) as progress:
        run_pretraining(chosen, found, out, place, progress.report, processes, progress.tick, library)


def _pretrain_by_tables(recipe: str, settings: list[str], out: Path, device: str, devices: int | None) -> None:
    """Pretraining that is a task among others, with rows of tables: OFA's mixture, or coding pictures. With a number of
    `devices` only what a step would cost."""
    import yaml

    from one_peace.recipe_files import plain_values
    from one_peace.training.distributed import join_processes
    from one_peace.training.dry_run import plan_table_run
    from one_peace.training.finetuning.recipe import load_finetune_recipe
    from one_peace.training.finetuning.run import finetune
    from one_peace.training.progress import plain_line

    chosen = load_finetune_recipe(recipe, settings, "pretrain")
    if devices is not None:
        typer.echo(yaml.safe_dump(plain_values(dataclasses.asdict(chosen)), sort_keys=False))
        typer.echo(plan_table_run(chosen, devices).as_text())
        return
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
    from one_peace.data.sample_library.building import build_sample_library, sources_with

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
