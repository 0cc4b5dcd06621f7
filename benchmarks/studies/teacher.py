"""Whose features should the denoising student predict? Published: those of the model itself, of the same step.

The other arms ask a moving average of the model, as BYOL, data2vec and their like do.
"""

from __future__ import annotations

import copy
from functools import partial

from torch import Tensor

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import Contrast, PretrainingBatch, PretrainingStage, pretraining_losses
from one_peace.training.ema import WeightAverage
from one_peace.training.pretraining.forward_pass import PretrainingPass
from studies.setting import IMAGES, Arm, Study, World


class AveragedTeacher(PretrainingPass):
    """The losses of pretraining with an average of the encoder as teacher: once per update, before its losses."""

    def __init__(self, model: OnePeaceForPretraining, stage: PretrainingStage, decay: float) -> None:
        super().__init__(model, stage)
        self.average = WeightAverage(model.encoder.named_parameters(), decay)
        teacher = copy.deepcopy(model.encoder).eval().requires_grad_(False)
        for name, parameter in teacher.named_parameters():
            parameter.data = self.average.averages[name]  # the average itself, which is updated in place
        self._teacher = (teacher,)  # no part of the module
        self.updates = 0

    def forward(self, batch: PretrainingBatch, contrast: Contrast, denoise: bool) -> dict[str, Tensor]:
        self.average.update(self.updates)
        self.updates += 1
        return pretraining_losses(self.model, batch, self.stage, contrast, denoise, self._teacher[0])


def own_pass(world: World, seed: int) -> OnePeaceForPretraining:
    model = world.model(("text", "image"), seed)
    world.train(model, world.recipe(IMAGES, seed, world.scale.steps, denoise_every=1), "image")
    return model


def average(world: World, seed: int, decay: float) -> OnePeaceForPretraining:
    model = world.model(("text", "image"), seed)
    recipe = world.recipe(IMAGES, seed, world.scale.steps, denoise_every=1)
    world.train(model, recipe, "image", world.update(AveragedTeacher(model, IMAGES, decay), recipe, "image"))
    return model


STUDY = Study(
    question="Which teacher: the model's own unmasked pass, or that of an average of it?",
    matched="Same steps, pairs and parameters; an average needs two more passes without gradient per step.",
    arms=(
        Arm("own pass", own_pass, "as published"),
        Arm("average, decay 0.9", partial(average, decay=0.9), "remembers about 10 updates"),
        Arm("average, decay 0.99", partial(average, decay=0.99), "about 100 updates"),
    ),
    figures=("image -> text, held out: AUC", "image -> text, held out: R@10", "image -> text, seen: R@10"),
)
