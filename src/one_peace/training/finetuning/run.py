"""One fine-tuning run: recipe in, run folder out, through the same loop as pretraining.

A run folder holds `recipe.yaml`, `log.jsonl`, `state/` (to go on from), `best/` where there is a validation table, and
at the end `model/`: the best model, with `task.json` beside the weights, so that it can predict.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from one_peace.cache import table_cache
from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.one_peace.names import prefixed_name
from one_peace.errors import CheckpointError, InputError
from one_peace.modalities.base import Processor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.head import PredictionHead
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.nn.initialization import initialize_linear_layers
from one_peace.recipe_files import plain_values
from one_peace.tasks.coding import CODING
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.ofa.kinds import SEQUENCE_KINDS
from one_peace.tasks.predictor import Predictor
from one_peace.tasks.retrieval_pairs import RETRIEVAL
from one_peace.tasks.task import Task, check_usable
from one_peace.training.best import BEST, RECORD, copy_best
from one_peace.training.distributed import Processes
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.finetuning.examples import Examples, Taught, left_out
from one_peace.training.finetuning.forward_pass import FrozenPredictionPass, PredictionPass
from one_peace.training.finetuning.job import FinetuneJob, changed_shape
from one_peace.training.finetuning.lora import add_lora, count_trained
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.finetuning.retrieval import open_retrieval
from one_peace.training.forward_pass import prepare_model
from one_peace.training.kept_recipe import keep_recipe
from one_peace.training.log import Report
from one_peace.training.loop import Judge, LoopSettings, run_updates
from one_peace.training.micro_batches import slot_of, slot_seed
from one_peace.training.ofa.job import open_sequence
from one_peace.training.saving import save_for_training
from one_peace.training.trackers import require_trackers
from one_peace.training.vqgan.job import open_coding


def finetune(
    recipe: FinetuneRecipe, out: Path, device: str, report: Report, processes: Processes | None = None
) -> dict[str, float]:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues -> step and figures of the
    model in `best/`, empty without a validation table or after a SIGTERM.

    Every one of several `processes` calls it, with a folder that all of them see.

    Raises:
        InputError: a table or label map that cannot be used.
        CheckpointError: a model that does not fit the task; `out` holds a run of another recipe.
    """
    processes = processes or Processes()
    require_trackers(recipe.trackers)
    job = open_job(recipe, device, processes)
    train, updates, values = job.examples, recipe.updates(len(job.examples)), plain_values(dataclasses.asdict(recipe))
    loop = LoopSettings(
        updates, recipe.schedule(updates), recipe.log_every, recipe.save_every, recipe.trackers, values, job.counts
    )
    keep_recipe(out, values | {"task": {**values["task"], **job.learnt}}, processes)
    if processes.first:
        trained, parameters = count_trained(job.model)
        start = f"random {recipe.model}" if job.at_random else recipe.model
        said = {"start": start, "examples": len(train), "updates": updates, "task": recipe.kind}
        report(said | {"trained": trained, "parameters": parameters})
    processes.wait()
    done, over = run_updates(job.model, loop, job.gradients, out, processes, report, judge=job.judge)
    for summary in (train.summary(processes.collect), left_out(str(recipe.tables.validation), job.passed_over)):
        if processes.first and summary:
            report({"step": done, "warning": summary})
    if not over:
        return {}
    if job.judge is None:
        job.save(out / "model")
        return {}
    if processes.first:
        copy_best(out, out / "model")
    processes.wait()
    figures: dict[str, float] = json.loads((out / BEST / RECORD).read_text(encoding="utf-8"))
    return figures


def open_job(recipe: FinetuneRecipe, device: str, processes: Processes) -> FinetuneJob:
    """What a run trains, by the recipe's kind of task. Errors as of `finetune`."""
    if recipe.kind in SEQUENCE_KINDS:
        return open_sequence(recipe, device, processes)
    if recipe.kind == CODING:
        return open_coding(recipe, device, processes)
    return (open_retrieval if recipe.kind == RETRIEVAL else _open_task)(recipe, device, processes)


def _open_task(recipe: FinetuneRecipe, device: str, processes: Processes) -> FinetuneJob:
    """A task with a head on the encoder."""
    cache = table_cache()
    settings = dataclasses.replace(recipe.settings(cache), columns=recipe.tables.columns)
    model, processors = start_model(recipe, settings)
    task = settings.build(processors)
    rows = recipe.tables.open_training(task.columns, cache)
    train = Examples(rows, Taught(task), recipe.seed, recipe.tables.augmentation, recipe.workers)
    model.train()
    if recipe.freeze:
        model.requires_grad_(False).head.requires_grad_(True)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed)
    forward = FrozenPredictionPass(model) if recipe.freeze else PredictionPass(model)
    scores = prepare_model(forward, recipe.engine, processes, device)

    def save(folder: Path) -> None:
        save_for_training(model, processors, folder, processes, also=settings.save)

    judge, passed_over = None, list[InputError]()
    if recipe.tables.validation is not None:
        judge = _judge(recipe, task, scores, save, train, cache, passed_over)
    update = FinetuneUpdate(scores, task, train, recipe, processes, torch.device(device))
    learnt = {"labels": list(settings.labels)} if settings.labels else {}
    return FinetuneJob(model, train, update.gradients, save, judge, passed_over=passed_over, learnt=learnt)


def start_model(recipe: FinetuneRecipe, settings: TaskSettings) -> tuple[OnePeaceForPrediction, dict[str, Processor]]:
    """The model that a run starts from: the recipe's encoder, with a fresh head for the task.

    As published, every block gets its own copy of the relative position tables.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        source = from_pretrained(recipe.model, image_size=recipe.image_size)
        task = settings.build(source.processors)
        config = _config(recipe, source, task)
        with torch.device("meta"):
            model = OnePeaceForPrediction(config)
        wanted = dict(model.named_parameters())
        tensors = {
            name: [parameter.detach()]
            for bare, parameter in source.encoder.named_parameters()
            if (name := prefixed_name(bare)) in wanted
        }
        assign_tensors(model, tensors, optional=("head.", "roles.", "encoder.adapters."))
        assert config.head is not None
        model.head = PredictionHead(config.head, config.width, config.heads)
        initialize_linear_layers(model.head, config.width)
        for name in model.roles:
            model.roles[name] = nn.Parameter(torch.zeros(1, 1, config.width))
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise CheckpointError(f"{recipe.model}: has no {', '.join(left)}, which this task needs")
    return model, {name: source.processors[name].limited(seconds=recipe.seconds) for name in config.modalities}


def _config(recipe: FinetuneRecipe, source: OnePeace, task: Task) -> OnePeaceConfig:
    config = source.config.with_modalities([name for name in source.config.modalities if name in task.modalities])
    return dataclasses.replace(changed_shape(config, recipe), head=task.head(config.width))


class FinetuneUpdate:
    """Computes gradients of the task's loss, micro-batch by micro-batch."""

    def __init__(
        self,
        scores: PredictionPass,
        task: Task,
        examples: Examples,
        recipe: FinetuneRecipe,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.local, self.micro = processes.divide(recipe.batch_size, recipe.micro_batch)
        self.scores, self.task, self.examples, self.recipe = scores, task, examples, recipe
        self.processes, self.device = processes, device

    def gradients(self, step: int) -> dict[str, Tensor]:
        """Adds up the gradients of update `step` -> the mean loss of this process's examples."""
        drawn = self.examples.batch(self.recipe.batch_size, step, self.processes.rank, self.processes.count)
        total = torch.zeros(())
        for start in range(0, self.local, self.micro):
            slot = slot_of(start // self.micro, self.local, self.micro, self.processes)
            torch.manual_seed(slot_seed(self.recipe.seed, step, slot))  # drop path draws from it
            batch = self.task.collate(drawn[start : start + self.micro]).to(self.device)
            loss = self.task.loss(self.scores(batch), batch) / self.local
            loss.backward()
            total = total + loss.detach().cpu()
        return {"total": total}


def _judge(
    recipe: FinetuneRecipe,
    task: Task,
    scores: PredictionPass,
    save: Callable[[Path], None],
    train: Examples,
    cache: Path,
    passed_over: list[InputError],
) -> Judge:
    """Figures on the validation table after every epoch, or every so many updates, and after the last one."""
    assert recipe.tables.validation is not None
    rows = recipe.tables.open(recipe.tables.validation, task.columns, cache)
    rows.check_ids()
    check_usable(rows, str(rows.path), task.measured)

    def figures(average: WeightAverage | None) -> dict[str, float]:
        predictor = Predictor(scores.model, task, recipe.micro_batch or recipe.batch_size, run=scores)
        with measured(scores, average):
            found = predictor.measure(rows, on_error="skip")
        passed_over[:] = predictor.skipped
        found["unusable"] = float(len(passed_over))
        return found

    return Judge(partial(recipe.evaluates, examples=len(train)), figures, task.figures().main, save, recipe.patience)
