"""One stage or two? The paper trains sound against text that image-text training has made, and keeps that frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.block import Block
from one_peace.tasks.pretraining import PretrainingStage
from one_peace.training.loop import Gradients
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.front_end import fit_front_end
from one_peace.training.pretraining.recipe import PretrainRecipe
from studies.setting import DENOISE_EVERY, IMAGES, SOUNDS, Arm, Study, World

ALL = ("text", "image", "audio")
SOUNDS_TRAINED = dataclasses.replace(SOUNDS, train_anchor=True)


def two_stages(world: World, seed: int) -> OnePeaceForPretraining:
    """Pictures and texts first, then sounds against frozen text."""
    model = with_front_end(world, seed, "sounds")
    recipe = world.recipe(IMAGES, seed, world.scale.steps, DENOISE_EVERY)
    world.train(model, recipe, "image")
    start_experts(model, "image", "audio")
    world.train(model, dataclasses.replace(recipe, stage=SOUNDS), "sounds")
    return model


def one_stage(world: World, seed: int) -> OnePeaceForPretraining:
    """Pictures and sounds take turns from the start; everything learns."""
    model = with_front_end(world, seed, "sounds")
    train_in_turns(world, model, seed, ("image", "sounds"))
    return model


def start_experts(model: OnePeaceForPretraining, source: str, target: str) -> None:
    """Starts one modality's experts, final norm and projection as another's, as `expert_from` of a recipe does."""
    encoder = model.encoder
    experts = [block.ffn for block in encoder.fusion.blocks if isinstance(block, Block)]
    for parts in (*experts, encoder.fusion.norms, encoder.projections):
        parts[target].load_state_dict(parts[source].state_dict())
    with torch.no_grad():
        encoder.adapter(target).cls.copy_(encoder.adapter(source).cls)


def with_front_end(world: World, seed: int, sounds: str) -> OnePeaceForPretraining:
    """A fresh model whose audio front end was fitted to spectrograms."""
    model = world.model(ALL, seed)
    steps = world.scale.front_end_steps
    fitted = fit_front_end(model.config, world.processors, world.batches[sounds], steps, seed, lambda row: None)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in fitted.items():
            parameters[name].copy_(value)
    return model


def train_in_turns(world: World, model: OnePeaceForPretraining, seed: int, kinds: Sequence[str]) -> None:
    """One update of each kind of pairs after the other, `scale.steps` rounds; all but the audio front end learns."""
    recipe = world.recipe(SOUNDS_TRAINED, seed, len(kinds) * world.scale.steps, DENOISE_EVERY)
    world.train(model, recipe, kinds[0], in_turns(world, model, recipe, kinds))


def in_turns(world: World, model: OnePeaceForPretraining, recipe: PretrainRecipe, kinds: Sequence[str]) -> Gradients:
    """Update n is number n // len(kinds) of its kind: the batch it would be in a run of that kind alone."""
    updates = []
    for kind in kinds:
        stage: PretrainingStage = IMAGES if kind == "image" else SOUNDS_TRAINED
        updates.append(world.update(PretrainingPass(model, stage), dataclasses.replace(recipe, stage=stage), kind))
    return lambda step: updates[step % len(kinds)](step // len(kinds))


STUDY = Study(
    question="Pictures, then sounds against frozen text, or all at once?",
    matched="Same updates and pairs of each kind; the frozen stage saves some gradients.",
    arms=(
        Arm("two stages", two_stages, "as published; text frozen in the second"),
        Arm("one stage", one_stage, "image and audio steps in turn, all trained"),
    ),
    figures=(
        "image -> text, held out: AUC",
        "image -> text, seen: R@10",
        "sound -> image, seen effects: R@10",
        "sound -> image, seen speech: R@10",
    ),
    sounds={"sounds": {"effect": 1.0, "speech": 1.0}},
)
