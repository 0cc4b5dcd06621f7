"""Lets a new text and picture side learn from frozen teachers before they learn from pairs.

Not in the paper, whose stage 1 has pairs enough. A few thousand pairs tell what these pictures are called, and little
of what words mean or how things look, so that a caption never trained on finds nothing. Here both sides first learn to
say what teachers say that have seen more (`training/teachers`). The sentence teacher gives the shared space its
directions: of its own, those in which captions and words differ most. A linear map, fitted to the training pairs, tells
where in it the picture teacher's features lie. Then the text side learns to put the words and definitions of WordNet
and the training captions there, and the picture side to put altered and mixed training pictures there.

Held-out captions take no part: neither their pictures, nor they themselves as texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.data.manifest import Item, captioned_items, held_out_captions, normalise_caption
from one_peace.data.pairs import DataRecipe, source_of
from one_peace.media.pictures import in_levels, normalise_pixels
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.forward_pass import precision_of
from one_peace.training.micro_batches import slot_seed
from one_peace.training.pretraining.gradients import BatchSource
from one_peace.training.pretraining.lesson_batches import collated
from one_peace.training.pretraining.lesson_files import made_once
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.short_fit import fit, short_optimizer
from one_peace.training.state import RunState
from one_peace.training.teachers.picture_teacher import PictureTeacher
from one_peace.training.teachers.sentence_teacher import SentenceTeacher

TEXTS, PICTURES, RATE, WARMUP = 384, 192, 1e-3, 200
SHARES = {"lexicon": 0.65, "captions": 0.25, "translations": 0.1}  # of the texts in a batch
LONGEST = 24  # tokens of a text
RIDGE = 0.3  # of the map from features to the space, per weight of pair
AT_ONCE = 64  # inputs of a teacher, and of texts of like length


@dataclass(frozen=True)
class Space:
    """Where teachers' vectors lie in the shared space of a model: `mean` (d,), `basis` (d, width), and for features of
    pictures `features` (f + 1, d), which ends with the constant."""

    mean: Tensor
    basis: Tensor
    features: Tensor

    @classmethod
    def fit(cls, captions: Tensor, words: Tensor, features: Tensor, weights: Tensor, width: int) -> Space:
        """From vectors of captions (n, d) with features of their pictures (n, f) and weights (n,), and of texts (m, d).

        A space wider than d stays empty beyond it.
        """
        weights = weights / weights.mean()
        mean = (weights[:, None] * captions).mean(0)
        captions = captions - mean
        apart, others = F.normalize(captions, dim=1), F.normalize(words - mean, dim=1)
        spread = (weights[:, None] * apart).T @ apart / len(apart) + others.T @ others / len(others)
        most = torch.linalg.eigh(spread).eigenvectors.flip(1)[:, :width]
        level, scale = features.mean(0), features.std(0).clamp_min(1e-3)
        known = F.pad((features - level) / scale, (0, 1), value=1.0)
        square = (weights[:, None] * known).T @ known + RIDGE * len(known) * torch.eye(known.shape[1])
        fitted = torch.linalg.solve(square, (weights[:, None] * known).T @ captions)
        slopes = fitted[:-1] / scale[:, None]
        whole = torch.cat([slopes, fitted[-1:] - level @ slopes])
        return cls(mean, F.pad(most, (0, width - most.shape[1])), whole)

    def of_texts(self, vectors: Tensor) -> Tensor:
        """Unit vectors of the sentence teacher (n, d) -> unit vectors (n, width)."""
        return F.normalize((vectors - self.mean) @ self.basis, dim=1)

    def of_pictures(self, features: Tensor) -> Tensor:
        """Features of the picture teacher (n, f) -> unit vectors (n, width)."""
        return F.normalize(F.pad(features, (0, 1), value=1.0) @ self.features @ self.basis, dim=1)


@dataclass(frozen=True)
class TeacherTexts:
    """What the text side reads: a `lexicon` of words and definitions, English `captions`, and `translations` with the
    row of their caption. `pictures` are the training pictures with the row of theirs and their weight."""

    lexicon: Sequence[str]
    captions: Sequence[str]
    translations: Sequence[tuple[str, int]]
    pictures: Sequence[tuple[Item, int, float]]


def teacher_texts(items: Sequence[Item], recipe: DataRecipe, lexicon: Sequence[str]) -> TeacherTexts:
    """What of the sample library's training pictures is drawn by a recipe, and a lexicon without held-out captions."""
    withheld = held_out_captions(items)

    def allowed(text: str) -> bool:
        return normalise_caption(text) not in withheld

    pictures = [item for item in captioned_items(items, "image") if source_of(item, recipe.sources) in recipe.sources]
    rows: dict[str, int] = {}
    translations: dict[tuple[str, int], None] = {}
    chosen = []
    for item in pictures:
        english = [text for text in item.texts.get("en", []) if allowed(text)]
        for text in (*english, *filter(allowed, item.tags)):
            rows.setdefault(text, len(rows))
        if not english:
            continue
        row = rows[english[0]]
        chosen.append((item, row, recipe.sources[source_of(item, recipe.sources)]))
        for language in recipe.languages.keys() - {"en"}:
            translations |= {(text, row): None for text in item.texts.get(language, []) if allowed(text)}
    return TeacherTexts([text for text in lexicon if allowed(text)], list(rows), sorted(translations), chosen)


class TeacherLessons:
    """What trains the encoder of a new model of texts and pictures, in place, for the `teacher_steps` of a stage.

    What teachers say of texts is kept in `folder`, and every `save_every` steps a state to go on from. Pictures are
    those of `batches`, altered as there, and then partly mixed with one another.
    """

    def __init__(
        self,
        model: OnePeaceForPretraining,
        recipe: PretrainRecipe,
        processors: Mapping[str, Processor],
        batches: BatchSource,
        texts: TeacherTexts,
        sentences: SentenceTeacher,
        pictures: PictureTeacher,
        report: Callable[[dict[str, Any]], None],
        folder: Path,
    ) -> None:
        model.train()
        self.encoder, self.stage, self.steps = model.encoder, recipe.stage, recipe.stage.teacher_steps
        self.processors, self.batches, self.texts = processors, batches, texts
        self.device = next(model.parameters()).device
        self.sentences, self.pictures = sentences.to(self.device), pictures.to(self.device)
        self.precision = precision_of(recipe.engine, self.device.type)
        self.seed, self.save_every, self.report, self.folder = recipe.seed, recipe.save_every, report, folder
        self.optimizer = short_optimizer(self.encoder.parameters())
        self.state = RunState(folder / "state", self.encoder, self.optimizer)

    def give(self) -> dict[str, Tensor]:
        """Gives the lessons, or what is left of them -> all of the encoder, by its names in the model.

        Raises:
            CheckpointError: what `folder` holds is damaged, or of another model.
        """
        with self.state:
            done, _ = self.state.restore()
            known = made_once(self.folder / "teachers.safetensors", self._asked)
            self.space = Space(known["mean"], known["basis"], known["features"])
            captions = known["captions"]
            rows = torch.tensor([row for _, row in self.texts.translations], dtype=torch.int64)
            self.groups = [
                (self.texts.lexicon, known["lexicon"], SHARES["lexicon"]),
                (self.texts.captions, captions, SHARES["captions"]),
                ([text for text, _ in self.texts.translations], captions[rows], SHARES["translations"]),
            ]
            fit(self.optimizer, self._loss, self.steps, RATE, WARMUP, first=done, after=self._save)
            self._warn(self.state.wait())
        return {f"encoder.{name}": parameter.detach() for name, parameter in self.encoder.named_parameters()}

    def _loss(self, step: int) -> Tensor:
        torch.manual_seed(slot_seed(self.seed, step, 0))  # for drop path
        generator = torch.Generator().manual_seed(slot_seed(self.seed, step, 1))
        examples, said = self._some_texts(generator)
        pictures = self._some_pictures(step, generator)
        seen = self.space.of_pictures(self._features(pictures).cpu()).to(self.device)
        with self.precision:
            read = [self._read(examples[first : first + AT_ONCE]) for first in range(0, len(examples), AT_ONCE)]
            looked = self.encoder.embed(self.stage.partner, {"pixels": normalise_pixels(pictures / 255)})
        texts_alike = (torch.cat(read).float() * said.to(self.device)).sum(1).mean()
        pictures_alike = (looked.float() * seen).sum(1).mean()
        if (step + 1) % 50 == 0 or step + 1 == self.steps:
            alike = {"texts": round(texts_alike.item(), 3), "pictures": round(pictures_alike.item(), 3)}
            self.report({"teacher_step": step + 1, **alike})
        return 2 - texts_alike - pictures_alike

    def _read(self, examples: Sequence[Example]) -> Tensor:
        anchor = self.stage.anchor
        return self.encoder.embed(anchor, collated(self.processors[anchor], examples, self.device))

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> Tensor:
        """Features of the picture teacher (pictures, f) float32, of pictures in levels of 0 to 255."""
        with self.precision:
            return torch.cat([self.pictures(some) for some in pictures.split(AT_ONCE)])

    def _some_texts(self, generator: torch.Generator) -> tuple[list[Example], Tensor]:
        """Examples of texts, the shortest first, and where they belong (texts, width)."""
        examples, places = [], []
        for texts, where, share in self.groups:
            if not texts:
                continue
            rows = torch.randint(len(texts), (round(share * TEXTS),), generator=generator)
            for row in rows.tolist():
                tokens = self.processors[self.stage.anchor](texts[row])["tokens"]
                kept = tokens if len(tokens) <= LONGEST else torch.cat([tokens[: LONGEST - 1], tokens[-1:]])
                examples.append({"tokens": kept})
            places.append(where[rows].float())
        order = sorted(range(len(examples)), key=lambda i: len(examples[i]["tokens"]))
        return [examples[i] for i in order], torch.cat(places)[order]

    def _some_pictures(self, step: int, generator: torch.Generator) -> Tensor:
        """Pictures (batch, 3, height, width) in levels of 0 to 255 on the device."""
        pairs = self.batches(PICTURES, self.seed, step)
        return mixed(self._levels([partner for _, partner in pairs]), generator)

    def _asked(self) -> dict[str, list[Tensor]]:
        """What the teachers say of all texts, and the space that comes of it and of the training pictures."""
        lexicon, captions = self._say(self.texts.lexicon), self._say(self.texts.captions)
        own = torch.tensor([row for _, row, _ in self.texts.pictures], dtype=torch.int64)
        weights = torch.tensor([weight for _, _, weight in self.texts.pictures])
        features = self._see([item.path for item, _, _ in self.texts.pictures])
        space = Space.fit(captions[own], lexicon, features, weights, self.encoder.config.width)
        said = {"lexicon": space.of_texts(lexicon).half(), "captions": space.of_texts(captions).half()}
        return {name: [value] for name, value in (said | vars(space)).items()}

    @torch.no_grad()
    def _say(self, texts: Sequence[str]) -> Tensor:
        """Vectors of the sentence teacher (texts, d); of like length at once."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        said: list[Tensor] = []
        for first in range(0, len(texts), AT_ONCE):
            with self.precision:
                said.append(self.sentences([texts[i] for i in order[first : first + AT_ONCE]]).cpu())
        result = torch.empty_like(torch.cat(said))
        result[order] = torch.cat(said)
        return result

    def _see(self, paths: Sequence[Path]) -> Tensor:
        """Features of the picture teacher (pictures, f), of what the model sees of each."""
        seen = []
        for first in range(0, len(paths), AT_ONCE):
            examples = [self.processors[self.stage.partner](path) for path in paths[first : first + AT_ONCE]]
            seen.append(self._features(self._levels(examples)).cpu())
        return torch.cat(seen)

    def _levels(self, examples: Sequence[Example]) -> Tensor:
        return in_levels(collated(self.processors[self.stage.partner], examples, self.device)["pixels"])

    def _save(self, done: int) -> None:
        if done % self.save_every == 0 or done == self.steps:
            self._warn(self.state.save(done))

    def _warn(self, problem: str | None) -> None:
        """Reports a failed save; the lessons go on."""
        if problem:
            self.report({"warning": problem})


def mixed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A fifth of the pictures (batch, 3, height, width) shine through another, a fifth have half of another beside."""
    batch, _, height, width = pictures.shape
    others = pictures[torch.randperm(batch, generator=generator)]
    which = torch.rand(batch, generator=generator).view(-1, 1, 1, 1).to(pictures)
    share = (0.3 + 0.4 * torch.rand(batch, generator=generator)).view(-1, 1, 1, 1).to(pictures)
    blended = share * pictures + (1 - share) * others
    left = (torch.arange(width) < width // 2).expand(height, width)
    half = left if torch.rand((), generator=generator) < 0.5 else (torch.arange(height) < height // 2)[:, None]
    beside = torch.where(half.to(pictures.device), pictures, others)
    return torch.where(which < 0.2, blended, torch.where(which > 0.8, beside, pictures))
