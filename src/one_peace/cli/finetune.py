"""`one-peace finetune`: a task from a table, starting from a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from one_peace.cli.imports import Imports
from one_peace.cli.pretrain import train_mico


def finetune(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a .yaml file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value; data=FOLDER and checkpoint=MODEL are short forms")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it continues.")] = Path("runs/finetune"),
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    imports: Imports = None,
) -> None:
    """Fine-tune a model for a task: classification, questions, grounding, captions, and so on."""
    from one_peace.checkpoints.registry import built_in_models
    from one_peace.nn.allocator import keep_freed_memory
    from one_peace.recipe_files import read_recipe
    from one_peace.training.distributed import join_processes
    from one_peace.training.finetuning.recipe import load_finetune_recipe
    from one_peace.training.finetuning.run import finetune as run
    from one_peace.training.progress import plain_line

    keep_freed_memory()
    if (values := read_recipe("finetune", recipe, settings or [])).get("family") == "mico":
        if "model" in values:  # fine-tuning starts from weights: a name that is also that of a preset means these
            values["model"] = str(built_in_models().get(values["model"], values["model"]))
        train_mico(values, out, None, device)
        return
    chosen = load_finetune_recipe(recipe, settings or [])
    with join_processes(device) as (processes, place):
        figures = run(chosen, out, place, lambda row: typer.echo(plain_line(row)), processes)
        if processes.first and figures:
            typer.echo(f"the best model is in {out / 'model'}: {plain_line(figures)}")
