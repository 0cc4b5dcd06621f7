"""Do modalities help modalities? More of them, trained together against text, and what pictures gain or lose."""

from __future__ import annotations

from functools import partial

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from studies.setting import DENOISE_EVERY, IMAGES, Arm, Study, World
from studies.stages import train_in_turns, with_front_end


def pictures(world: World, seed: int, times: int = 1) -> OnePeaceForPretraining:
    """Text and images alone."""
    model = world.model(("text", "image"), seed)
    world.train(model, world.recipe(IMAGES, seed, times * world.scale.steps, DENOISE_EVERY), "image")
    return model


def pictures_and(world: World, seed: int, sounds: str) -> OnePeaceForPretraining:
    """The same image steps with as many of sounds between them."""
    model = with_front_end(world, seed, sounds)
    train_in_turns(world, model, seed, ("image", sounds))
    return model


STUDY = Study(
    question="Do modalities help modalities?",
    matched="Same image-text pairs and steps. Arms with sound have as many audio steps between them; "
    "the second arm spends those on pictures.",
    arms=(
        Arm("text + image", pictures),
        Arm("text + image, twice as long", partial(pictures, times=2), "as many updates as the arms below"),
        Arm("+ sound effects", partial(pictures_and, sounds="effects"), "real recordings"),
        Arm("+ effects and speech", partial(pictures_and, sounds="effects and speech"), "real recordings"),
        Arm("+ synthetic speech", partial(pictures_and, sounds="all"), "as above, and captions read by eSpeak NG"),
    ),
    figures=(
        "image -> text, held out: AUC",
        "image -> text, seen: R@10",
        "sound -> image, seen effects: R@10",
        "sound -> image, seen speech: R@10",
    ),
    sounds={
        "effects": {"effect": 1.0},
        "effects and speech": {"effect": 1.0, "speech": 1.0},
        "all": {"effect": 1.0, "speech": 1.0, "synthetic": 1.0},
    },
)
