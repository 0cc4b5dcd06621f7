"""Which features does the contrast teach? As published each as a query only, with full gradients as a candidate too."""

from __future__ import annotations

import dataclasses
from functools import partial

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from studies.setting import IMAGES, Arm, Study, World


def contrast_alone(world: World, seed: int, rule: str) -> OnePeaceForPretraining:
    """Cross-modal contrast only, by a rule of the recipe's `contrast`."""
    model = world.model(("text", "image"), seed)
    recipe = dataclasses.replace(world.recipe(IMAGES, seed, world.scale.steps, denoise_every=0), contrast=rule)
    world.train(model, recipe, "image")
    return model


STUDY = Study(
    question="Should candidates of the contrast get gradients?",
    matched="Steps, pairs, initial values; contrast alone.",
    arms=(
        Arm("published", partial(contrast_alone, rule="published"), "a feature learns as query only"),
        Arm("full", partial(contrast_alone, rule="full"), "and as candidate"),
    ),
    figures=("image -> text, held out: AUC", "image -> text, held out: R@10", "image -> text, seen: R@10"),
)
