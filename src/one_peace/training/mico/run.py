"""One run of MiCo's pretraining, or fine-tuning by the same objectives: recipe in, run folder out, through the loop of
all training.

A run folder holds `recipe.yaml`, `log.jsonl`, `state/` (to go on from), `best/` with an evaluation, and `model/`, which
`from_pretrained` reads and the next run may start from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from one_peace.data.manifest import Item, held_out_captions
from one_peace.models.mico.model import TEXT, MiCoModel
from one_peace.tasks.mico.clips import ClipReader
from one_peace.tasks.mico.remembered import Remembered
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import Examples
from one_peace.training.forward_pass import prepare_model
from one_peace.training.kept_recipe import goes_on, keep_recipe
from one_peace.training.log import Report
from one_peace.training.loop import Judge, LoopSettings, run_updates
from one_peace.training.mico.evaluation import BEST_BY, open_mico_evaluator
from one_peace.training.mico.recipe import SAMPLE_LIBRARY, MiCoRecipe
from one_peace.training.mico.start import open_clips, plan_mico, start_mico
from one_peace.training.mico.update import ClipBatches, MiCoPass, MiCoUpdate
from one_peace.training.saving import save_for_training
from one_peace.training.throughput import Throughput
from one_peace.training.trackers import require_trackers


def run_mico(
    recipe: MiCoRecipe,
    items: Sequence[Item],
    out: Path,
    device: str,
    report: Report,
    processes: Processes | None = None,
    tick: Callable[[int], None] | None = None,
) -> MiCoModel:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues.

    Every one of several `processes` calls it, with a folder that all of them see. `items` are those of the sample
    library, where a source is of it.

    Raises:
        InputError: clips that are not there, or of which none can be used.
        CheckpointError: a model to start from that does not fit; `out` holds a run of another recipe,
            or a state without its model.
        ValueError: settings that do not fit together.
    """
    processes = processes or Processes()
    require_trackers(recipe.trackers)
    keep_recipe(out, recipe.values(), processes)
    folder = out / "model"
    withheld = held_out_captions(items)
    rows = {
        name: open_clips(source.path, source.modalities, items, only=source.only, withheld=withheld)
        for name, source in recipe.sources.items()
    }
    resumed = goes_on(out, processes)
    plan = None
    if processes.first:  # one process trains the vocabulary; the others are told
        plan = plan_mico(recipe, rows, folder if resumed else None)
    plan = processes.share(plan)
    assert plan is not None
    processors = plan.processors()
    remembered = {name: one if name == TEXT else Remembered(one) for name, one in processors.items()}
    readers = {
        name: ClipReader(
            remembered if source.path == SAMPLE_LIBRARY else processors,
            plan.config,
            source.modalities,
            source.tasks,
            kinds=source.kinds,
            strength=recipe.augmentation,
        )
        for name, source in recipe.sources.items()
    }
    examples = {
        name: Examples(rows[name], readers[name], recipe.seed, workers=recipe.workers) for name in recipe.sources
    }
    evaluator = open_mico_evaluator(recipe, plan, items, device, processes)
    model = start_mico(plan, recipe.seed)
    save = partial(save_for_training, processors=processors, processes=processes)
    if processes.first:
        report({"clips": {name: len(source) for name, source in rows.items()}, "vocabulary": plan.pieces.vocab_size})
    losses = prepare_model(MiCoPass(model.train(), processes), recipe.engine, processes, device)
    if not resumed:
        save(model, folder=folder)
    processes.wait()
    update = MiCoUpdate(losses, recipe, readers, ClipBatches(recipe, examples), processes, device)
    judge = None
    if evaluator is not None and recipe.evaluation is not None:
        every = recipe.evaluation.every
        judge = Judge(
            lambda step: step % every == 0 or step == recipe.steps,
            partial(evaluator, losses),
            BEST_BY,
            lambda place: save(model, folder=place),
        )
    settings = LoopSettings(
        recipe.steps,
        recipe.optimizer,
        recipe.log_every,
        recipe.save_every,
        recipe.trackers,
        recipe.values(),
        groups=recipe.groups(),
    )
    _, over = run_updates(
        model,
        settings,
        update.gradients,
        out,
        processes,
        report if processes.first else None,
        pace=lambda first: Throughput(recipe.steps, recipe.batch_size, first),
        extra=lambda: {"temperature": round(model.temperature.item(), 4)},
        judge=judge,
        tick=tick if processes.first else None,
    )
    for name, source in examples.items():
        if (summary := source.summary(processes.collect)) and processes.first:
            report({"source": name, "warning": summary})
    if over:
        save(model, folder=folder)
    return model
