"""Does the denoising contrast help the vectors? The paper trains with it throughout (section 3.3)."""

from __future__ import annotations

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.cost import FlopCount
from one_peace.training.pretraining.forward_pass import PretrainingPass
from studies.setting import IMAGES, Arm, Study, World


def contrast_alone(world: World, seed: int, times: float = 1.0) -> OnePeaceForPretraining:
    """Cross-modal contrast only, for `times` as many steps."""
    return _run(world, seed, round(times * world.scale.steps), denoise_every=0)


def with_denoising(world: World, seed: int) -> OnePeaceForPretraining:
    """Both objectives in every step."""
    return _run(world, seed, world.scale.steps, denoise_every=1)


def contrast_for_the_same_arithmetic(world: World, seed: int) -> OnePeaceForPretraining:
    """Contrast only, for as many operations as the arm with denoising."""
    return contrast_alone(world, seed, cost_of_denoising(world))


def cost_of_denoising(world: World) -> float:
    """Operations of a step with denoising, by those of one without, counted on one batch."""
    model = world.model(("text", "image"), seed=0)
    costs = []
    for every in (1, 0):
        gradients = world.update(
            PretrainingPass(model, IMAGES), world.recipe(IMAGES, 0, world.scale.steps, every), "image"
        )
        with FlopCount() as count:
            gradients(0)
        costs.append(count.total)
    return costs[0] / costs[1]


def _run(world: World, seed: int, steps: int, denoise_every: int) -> OnePeaceForPretraining:
    model = world.model(("text", "image"), seed)
    world.train(model, world.recipe(IMAGES, seed, steps, denoise_every), "image")
    return model


STUDY = Study(
    question="Does the denoising contrast help retrieval?",
    matched="The first two arms have the same steps and pairs, the third the arithmetic of the second.",
    arms=(
        Arm("contrast", contrast_alone),
        Arm("contrast + denoising", with_denoising, "denoising in every step"),
        Arm("contrast, same arithmetic", contrast_for_the_same_arithmetic, "more steps, more pairs"),
    ),
    figures=("image -> text, held out: AUC", "image -> text, held out: R@10", "image -> text, seen: R@10"),
)
