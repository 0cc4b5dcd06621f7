"""`one-peace pretrain`: one stage of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from one_peace.data.manifest import Item
    from one_peace.training.dry_run import DryRun


def pretrain(
    recipe: Annotated[str, typer.Argument(help="name of a shipped recipe, or a .yaml file")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, dotted keys reach inside")] = None,
    out: Annotated[Path, typer.Option(help="run folder; an interrupted run in it continues")] = Path("runs/pretrain"),
    library: Annotated[Path | None, typer.Option(help="root of the sample library's cache")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell what a step would cost")] = False,
) -> None:
    """Pretrain a model on image-text or audio-text pairs."""
    from one_peace.data.sample_library import ALL_SOURCES, build_sample_library
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.training.distributed import join_processes
    from one_peace.training.dry_run import plan_run
    from one_peace.training.recipe import load_recipe, recipe_to_yaml
    from one_peace.training.run import run_pretraining

    def report(row: dict[str, Any]) -> None:
        typer.echo(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )

    keep_freed_memory()
    chosen = load_recipe(recipe, settings or [])

    def sample_library() -> list[Item]:
        return [] if chosen.files else build_sample_library(library, ALL_SOURCES, progress=typer.echo).items

    if dry_run:
        typer.echo(recipe_to_yaml(chosen))
        _print_cost(plan_run(chosen, sample_library()))
        return
    with join_processes(device) as (processes, place):
        if processes.first:
            sample_library()
        processes.wait()  # the others find it built
        run_pretraining(chosen, sample_library(), out, place, report, processes)


def _print_cost(cost: DryRun) -> None:
    typer.echo(f"{'parameters':32} {'trained':>15} {'frozen':>15}")
    for part, (trained, frozen) in cost.parameters.items():
        typer.echo(f"  {part:30} {trained:15,} {frozen:15,}")
    typer.echo(f"  {'in all':30} {cost.trained:15,} {cost.frozen:15,}")
    typer.echo("\none step, all devices together, with denoising")
    for modality, count in cost.tokens.items():
        typer.echo(f"  {modality + ' tokens':30} {count:15,}")
    typer.echo(f"  {'arithmetic':30} {cost.flops / 1e12:11,.2f} TFLOP")
    typer.echo("\nmemory in float32 on one device, unsharded and without recomputation")
    for what, size in cost.memory.items():
        typer.echo(f"  {what:30} {size / 2**30:11,.2f} GiB")
    typer.echo(f"  {'in all':30} {sum(cost.memory.values()) / 2**30:11,.2f} GiB")
