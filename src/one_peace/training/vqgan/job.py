"""Training of a VQGAN through the shared loop: pictures from tables, what is lost of them by coding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from one_peace.cache import table_cache
from one_peace.errors import InputError
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.loading import load_vqgan, save_vqgan
from one_peace.models.vqgan.model import Vqgan
from one_peace.models.vqgan.presets import PRESETS
from one_peace.tasks.coding import COLUMNS, CodingFigures, read_pixels
from one_peace.tasks.task import Row, usable
from one_peace.training.distributed import Processes, whole_tensor
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.finetuning.examples import DrawingReader, Examples
from one_peace.training.finetuning.job import FinetuneJob
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.forward_pass import prepare_model
from one_peace.training.loop import Judge
from one_peace.training.vqgan.recipe import CodingRecipe
from one_peace.training.vqgan.update import CodingUpdate, VqganPass

IMAGE_SIZE = 256  # of the published coder


class CropReader(DrawingReader[Tensor]):
    """Rows as squares of their pictures (3, crop, crop), anywhere in them, mirrored or not."""

    def __init__(self, size: int, crop: int) -> None:
        self.size, self.crop = size, crop

    def draw(self, row: Row, key: str, generator: torch.Generator) -> Tensor:
        pixels = read_pixels(row, key, self.size)
        top, left = torch.randint(self.size - self.crop + 1, (2,), generator=generator).tolist()
        square = pixels[:, top : top + self.crop, left : left + self.crop]
        return square.flip(2) if torch.rand((), generator=generator) < 0.5 else square


def open_coding(recipe: FinetuneRecipe, device: str, processes: Processes) -> FinetuneJob:
    """A VQGAN to be trained on the pictures of tables.

    Raises:
        InputError: a table that cannot be used.
        CheckpointError: a model to start from that is no VQGAN.
        ValueError: sizes that do not fit.
    """
    chosen, size = recipe.coding or CodingRecipe(), recipe.image_size or IMAGE_SIZE
    crop = chosen.crop or size
    model = start_coder(recipe.model, recipe.seed)
    check_sizes(model.config, size, crop)
    if recipe.engine.compile or recipe.engine.recompute:
        raise ValueError("engine: compile and recompute are for transformer blocks, which a VQGAN has none of")
    cache = table_cache()
    rows = recipe.tables.open_training(COLUMNS, cache)
    train = Examples(rows, CropReader(size, crop), recipe.seed, recipe.tables.augmentation, recipe.workers)
    losses = prepare_model(VqganPass(model.train()), recipe.engine, processes, device)

    def save(folder: Path) -> None:
        tensors = {name: whole_tensor(tensor) for name, tensor in model.state_dict().items()}
        if processes.first:
            save_vqgan(model, folder, tensors)

    update = CodingUpdate(losses, train, recipe, processes, device)
    if update.uncoded >= update.steps:
        raise ValueError(f"coding.uncoded={update.uncoded} leaves none of the {update.steps} updates for codes")
    judge, passed_over = None, list[InputError]()
    if recipe.tables.validation is not None:
        judge = _judge(recipe, update, size, save, len(train), cache, passed_over)
    codes = recipe.batch_size * (crop // model.config.patch) ** 2
    return FinetuneJob(
        model,
        train,
        update.gradients,
        save,
        judge,
        passed_over=passed_over,
        at_random=recipe.model in PRESETS,
        tokens=lambda step: {"code": codes},
    )


def start_coder(name_or_path: str, seed: int) -> Vqgan:
    """A fresh preset, by its name, or a saved or published coder.

    Raises:
        CheckpointError: a file that is no VQGAN.
        ValueError: neither a preset nor a file.
    """
    if name_or_path not in PRESETS:
        if not Path(name_or_path).exists():
            raise ValueError(f"model={name_or_path}: no such file or folder; presets are {', '.join(PRESETS)}")
        return load_vqgan(name_or_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Vqgan(PRESETS[name_or_path])


def check_sizes(config: VqganConfig, size: int, crop: int) -> None:
    """`ValueError` for sides of pictures that are no whole number of codes."""
    for name, side in (("image_size", size), ("coding.crop", crop)):
        if side % config.patch:
            raise ValueError(f"{name}={side} is no multiple of {config.patch}, the pixels that a code stands for")
    if crop > size:
        raise ValueError(f"coding.crop={crop} is more than the {size} pixels of a picture")


def _judge(
    recipe: FinetuneRecipe,
    update: CodingUpdate,
    size: int,
    save: Callable[[Path], None],
    examples: int,
    cache: Path,
    passed_over: list[InputError],
) -> Judge:
    """How near whole pictures of the validation table are reconstructed, every epoch or every so many updates, once
    there are codes."""
    assert recipe.tables.validation is not None
    rows = recipe.tables.open(recipe.tables.validation, COLUMNS, cache)
    losses = update.losses

    def figures(average: WeightAverage | None) -> dict[str, float]:
        measure = CodingFigures(losses.model.config.codes)
        passed_over.clear()
        waiting: list[Tensor] = []

        def look() -> None:
            pictures = torch.stack(waiting).to(update.device)
            measure.add(pictures, *losses.reconstruct(pictures))
            waiting.clear()

        with measured(losses, average):
            for _, pixels in usable(rows, partial(read_pixels, size=size), "skip", passed_over):
                waiting.append(pixels)
                if len(waiting) == (recipe.micro_batch or recipe.batch_size):
                    look()
            if waiting:
                look()
        if not measure.pictures:
            raise InputError(str(rows.path), f"none of its pictures can be used; the last one: {passed_over[-1]}")
        return {**measure.result(), "unusable": float(len(passed_over))}

    def due(step: int) -> bool:
        return step > update.uncoded and recipe.evaluates(step, examples)

    return Judge(due, figures, CodingFigures.main, save, recipe.patience)
