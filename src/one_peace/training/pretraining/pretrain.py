"""Pretraining: a stage's losses through the training loop, on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from one_peace.modalities.base import Processor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import freeze_for_stage
from one_peace.training.distributed import Processes
from one_peace.training.forward_pass import prepare_model
from one_peace.training.log import Report
from one_peace.training.loop import Gradients, Judge, LoopSettings, Tally, run_updates
from one_peace.training.pretraining.evaluation import Evaluator
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.gradients import COUNTS, BatchSource, Update
from one_peace.training.pretraining.recipe import PretrainRecipe, recipe_values
from one_peace.training.pretraining.utilisation import MeteredBatches, TokenRates, Utilisation
from one_peace.training.saving import save_for_training
from one_peace.training.state import has_state
from one_peace.training.throughput import Throughput


@dataclass(frozen=True)
class Watch:
    """What looks at a run besides its log. `tick` is told of every update."""

    tick: Callable[[int], None] | None = None
    evaluator: Evaluator | None = None
    utilisation: Utilisation | None = None


def pretrain(
    model: OnePeaceForPretraining,
    recipe: PretrainRecipe,
    processors: Mapping[str, Processor],
    batches: BatchSource,
    out: Path,
    device: str = "cpu",
    report: Report | None = None,
    processes: Processes | None = None,
    gradients: Gradients | None = None,
    fill: Callable[[OnePeaceForPretraining], None] | None = None,
    watch: Watch | None = None,
    tally: Tally | None = None,
) -> int:
    """Runs updates of `model` in place up to `recipe.steps` -> how many are done, fewer after a SIGTERM.

    `out` gets `log.jsonl`, `state/` to go on from, and with an evaluator in `watch` the `best/` model. At the end the
    model holds the averaged weights, if the recipe asks for an average. `gradients` takes the place of the recipe's
    own losses and of `batches`.
    A `model` on the meta device gets its memory here, sharded, and its values by `fill` or from the state in `out`.

    Raises:
        CheckpointError: the state in `out` does not fit the model, or the last state could not be saved.
        DivergenceError: more than `optimizer.skip_limit` updates in a row had a gradient that is not finite.
    """
    processes, watch = processes or Processes(), watch or Watch()
    out.mkdir(parents=True, exist_ok=True)
    model.train()
    freeze_for_stage(model, recipe.stage)
    losses = prepare_model(PretrainingPass(model, recipe.stage), recipe.engine, processes, device)
    if fill is not None and not processes.any(has_state(out / "state")):
        fill(model)
    token_rates = None
    if gradients is None:
        drawn = MeteredBatches(batches, recipe, processors)
        token_rates = TokenRates(drawn, processes, watch.utilisation)
        gradients = Update(losses, recipe, processors, drawn, processes, device).gradients
    judge, evaluator = None, watch.evaluator
    if evaluator is not None:
        save = partial(save_for_training, model, processors, processes=processes)
        judge = Judge(evaluator.due, partial(evaluator, losses), evaluator.best_by, save)
    settings = LoopSettings(
        recipe.steps,
        recipe.optimizer,
        recipe.log_every,
        recipe.save_every,
        recipe.trackers,
        recipe_values(recipe),
        COUNTS,
    )
    done, _ = run_updates(
        model,
        settings,
        gradients,
        out,
        processes,
        report,
        pace=lambda first: Throughput(recipe.steps, recipe.batch_size, first, token_rates),
        extra=lambda: {"temperature": round(model.encoder.temperature().item(), 3)},
        judge=judge,
        tally=tally,
        tick=watch.tick,
    )
    return done
