"""What the arms of all studies share: the shape of the model, the data, one call into the project's training loop."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.data.manifest import Item, captioned_items, held_out_captions
from one_peace.data.pairs import DataRecipe, PairSampler
from one_peace.modalities.audio import AudioConfig, AudioProcessor
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.image import ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.presets import decoder_shape
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import AUDIO_TEXT, IMAGE_TEXT, PretrainingStage
from one_peace.tasks.sample_library import STAMPS
from one_peace.training.distributed import Processes
from one_peace.training.loop import Gradients
from one_peace.training.pretraining.gradients import BatchSource, Update
from one_peace.training.pretraining.pretrain import pretrain
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.recipe import OptimizerRecipe

PICTURES = {STAMPS: 2.0, "@iconify-json/noto": 1.0, "@lobehub/fluent-emoji-3d": 1.0}
LANGUAGE = "fr"  # of the spoken captions
SECONDS = 1.5  # longest piece of a sound
DENOISE_EVERY = 5  # where denoising is not the question
IMAGES = IMAGE_TEXT
SOUNDS = dataclasses.replace(AUDIO_TEXT, front_end_steps=1)  # keeps the front end as it was fitted


@dataclass(frozen=True)
class Scale:
    """Sizes of the models and of the runs. Widths are multiples of 32, the width of a head."""

    width: int = 64
    layers: int = 2
    image_size: int = 48
    batch_size: int = 48
    steps: int = 100
    lr: float = 2e-3
    vocabulary: int = 2000
    front_end_steps: int = 60

    def config(self, vocabulary: int) -> OnePeaceConfig:
        """Text, image and audio. The audio front end is two wide convolutions, 40 ms apart: seven take too long."""
        grid = self.image_size // 16
        return OnePeaceConfig(
            name="study",
            width=self.width,
            layers=self.layers,
            heads=self.width // 32,
            ffn_width=4 * self.width,
            modalities={
                "text": TextConfig(vocab_size=vocabulary, max_positions=64, bias_buckets=32),
                "image": ImageConfig(self.image_size, grid, grid),
                "audio": AudioConfig(((128, 320, 160), (128, 4, 4)), 2, 31, 8, 64),
            },
            layer_scale=1.0,
            decoder=decoder_shape(self.width),
        )


@dataclass(frozen=True)
class World:
    """One study's ground: `batches` maps a kind of pairs (`image`, or a set of sounds) to where they come from.

    `judged` are the items that a trained model is measured on.
    """

    scale: Scale
    config: OnePeaceConfig
    processors: Mapping[str, Processor]
    batches: Mapping[str, BatchSource]
    judged: Sequence[Item]

    def model(self, modalities: Sequence[str], seed: int) -> OnePeaceForPretraining:
        """A fresh model; its initial values depend on the seed."""
        torch.manual_seed(seed)
        return OnePeaceForPretraining(self.config.with_modalities(modalities))

    def recipe(self, stage: PretrainingStage, seed: int, steps: int, denoise_every: int) -> PretrainRecipe:
        """One run of the loop: nothing dropped, nothing averaged, no state saved on the way."""
        return PretrainRecipe(
            model="nano",  # not looked up: the loop is handed its model
            stage=stage,
            steps=steps,
            batch_size=self.scale.batch_size,
            optimizer=OptimizerRecipe(lr=self.scale.lr, warmup_steps=steps // 10, weight_decay=0.1),
            drop_path=0.0,
            denoise_every=denoise_every,
            log_every=steps,
            save_every=steps,
            seed=seed,
        )

    def train(
        self, model: OnePeaceForPretraining, recipe: PretrainRecipe, kind: str, gradients: Gradients | None = None
    ) -> None:
        """The project's loop; its run folder is thrown away."""
        with tempfile.TemporaryDirectory() as folder:
            pretrain(model, recipe, self.processors, self.batches[kind], Path(folder), gradients=gradients)

    def update(self, losses: Any, recipe: PretrainRecipe, kind: str) -> Gradients:
        """Gradients of `losses`, a `PretrainingPass`, on pairs of one kind."""
        return Update(losses, recipe, self.processors, self.batches[kind], Processes(), "cpu").gradients


Build = Callable[[World, int], OnePeaceForPretraining]


@dataclass(frozen=True)
class Arm:
    """One way to make a model: `build` trains one from a world and a seed. `note` says what it takes."""

    name: str
    build: Build
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A question and its arms; differences are taken to the first one. `matched` says what all arms have in common.

    `sounds` names the sets of sounds that the arms draw from, each a mapping of tracks to weights. `figures` are the
    measured names that the plot shows.
    """

    question: str
    matched: str
    arms: tuple[Arm, ...]
    figures: tuple[str, ...]
    sounds: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


class Remembered(Processor):
    """A processor that reads every file once: arms and seeds are judged on the same ones."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.seen: dict[Any, list[Example]] = {}

    def __call__(self, source: Any) -> Example:
        return self.processor(source)

    def length(self, example: Example) -> int:
        return self.processor.length(example)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return self.processor.collate(examples)

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        return self.processor.mask(example, ratio, generator, avoid)

    def views(self, source: Any) -> list[Example]:
        if source not in self.seen:
            self.seen[source] = self.processor.views(source)
        return self.seen[source]


def open_world(items: Sequence[Item], scale: Scale, study: Study) -> World:
    """Reads the pictures and sounds that a study needs, once for all of its arms."""
    captions = sorted({text for i in items if i.split == "train" for text in i.texts.get("en", ())})
    tokenizer = Tokenizer(train_tokenizer([" " + caption.lower() for caption in captions], scale.vocabulary))
    config = scale.config(tokenizer.vocab_size)
    text, image, audio = (config.modalities[name] for name in ("text", "image", "audio"))
    words = TextProcessor(text, tokenizer)
    partners: dict[str, Processor] = {"image": ImageProcessor(image), "audio": AudioProcessor(audio)}
    processors = {"text": words, **{name: Remembered(partner) for name, partner in partners.items()}}
    withheld = held_out_captions(items)

    def draw(partner: str, recipe: DataRecipe) -> BatchSource:
        processor = partners[partner].limited(seconds=recipe.clip_seconds)
        return PairSampler(captioned_items(items, partner), words, recipe, partner, processor, withheld).batch

    batches = {"image": draw("image", DataRecipe(PICTURES, tags=0.12, word_dropout=0.1, caption_tokens=14))}
    for kind, tracks in study.sounds.items():
        sources = {name if name == "effect" else f"{name}/{LANGUAGE}": weight for name, weight in tracks.items()}
        recipe = DataRecipe(sources, own_language=0.0, tags=0.0, augmentation=0.0, clip_seconds=SECONDS)
        batches[kind] = draw("audio", recipe)
    judged = [i for i in items if i.kind == "image" or (study.sounds and _is_judged(i))]
    return World(scale, config, processors, batches, judged)


def _is_judged(sound: Item) -> bool:
    return sound.track == "effect" or (sound.track == "speech" and sound.language == LANGUAGE)
