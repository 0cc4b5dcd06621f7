"""Evaluation during training: recall on held-out pairs and zero-shot labels, every so many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from one_peace.data.decoding import PairDecoder
from one_peace.data.folders import ManifestSource
from one_peace.data.manifest import Item
from one_peace.data.opening import SourceRecipe, open_source, places_of
from one_peace.data.shard_cache import ShardCache
from one_peace.data.source import ConcatenatedSource, PairSource
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.text import TextProcessor
from one_peace.models.batching import batch_by_length
from one_peace.models.embedding import TOKENS_PER_BATCH
from one_peace.tasks.held_out import (
    HeldOut,
    Read,
    captions_of,
    categories_of,
    decode_held_out,
    from_source,
    label_figures,
    label_vectors,
    retrieval_figures,
    validation_items,
)
from one_peace.training.distributed import Processes
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.recipe import PretrainRecipe

GROUP = "eval/"  # before the names of figures in the log


class Evaluator:
    """Measures the model on held-out sets that are decoded once, at the start.

    Each process embeds its share of the batches; all get the same figures. Nothing random is drawn and no weight
    is changed, so that training goes on as if it had not been looked at.

    Raises:
        InputError: a set has nothing usable in it.
        ValueError: `best_by` is none of the figures.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        processors: Mapping[str, Processor],
        pairs: HeldOut | None,
        labels: HeldOut | None,
        device: str,
        processes: Processes,
    ) -> None:
        anchor, self.partner = recipe.stage.anchor, recipe.stage.partner
        self.schedule, self.pairs, self.labels = recipe.evaluation, pairs, labels
        self.last, self.prompts = recipe.steps, len(recipe.evaluation.prompts)

        def batches(name: str, examples: Sequence[Example]) -> _Batches:
            return _Batches(name, examples, processors[name], torch.device(device), processes)

        self.sides: dict[str, tuple[_Batches, _Batches]] = {}
        if pairs is not None:
            texts = [processors[anchor](text) for text in pairs.texts]
            self.sides["pairs"] = batches(self.partner, pairs.partners), batches(anchor, texts)
        if labels is not None:
            prompted = [processors[anchor](p.replace("{}", t)) for p in self.schedule.prompts for t in labels.texts]
            self.sides["labels"] = batches(self.partner, labels.partners), batches(anchor, prompted)
        names = self._figures({name: (torch.zeros(*s.relevant.shape), s) for name, s in self._sets().items()})
        self.best_by = GROUP + (self.schedule.best_by or ("recall" if pairs is not None else "zero_shot@1"))
        if self.best_by not in names:
            known = ", ".join(name.removeprefix(GROUP) for name in names)
            raise ValueError(f"evaluation.best_by={self.schedule.best_by!r} is none of the figures: {known}")

    def due(self, done: int) -> bool:
        """Whether an evaluation is due after this many updates."""
        return done % self.schedule.every == 0 or done == self.last

    def __call__(self, losses: PretrainingPass, average: WeightAverage | None = None) -> dict[str, float]:
        """The figures of the model, or of the average of its weights if there is one; every process has to call it."""
        with measured(losses, average), torch.no_grad():
            scored = {name: (self._scores(name, losses), held_out) for name, held_out in self._sets().items()}
        return self._figures(scored)

    def _sets(self) -> dict[str, HeldOut]:
        return {name: s for name, s in (("pairs", self.pairs), ("labels", self.labels)) if s is not None}

    def _scores(self, name: str, losses: PretrainingPass) -> Tensor:
        partners, texts = (side.embed(losses) for side in self.sides[name])
        if name == "labels":
            texts = label_vectors(texts.unflatten(0, (self.prompts, -1)))
        return partners @ texts.t()

    def _figures(self, scored: Mapping[str, tuple[Tensor, HeldOut]]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, (scores, held_out) in scored.items():
            if name == "pairs":
                figures |= retrieval_figures(self.partner, scores, held_out.relevant)
            else:
                figures |= label_figures(scores, held_out.relevant)
        return {GROUP + name: value for name, value in figures.items()}


def open_evaluator(
    recipe: PretrainRecipe,
    items: Sequence[Item],
    processors: Mapping[str, Processor],
    device: str,
    processes: Processes,
    shards: ShardCache,
) -> Evaluator | None:
    """What the recipe's `evaluation` asks for: its own sources, or the validation split of the sample library."""
    schedule, partner = recipe.evaluation, recipe.stage.partner
    if not schedule.every:
        return None
    text = processors[recipe.stage.anchor]
    assert isinstance(text, TextProcessor)
    decoder = PairDecoder(text, partner, processors[partner].limited(seconds=recipe.data.clip_seconds), 0.0)

    opened = open_held_out(recipe, shards)
    sets: dict[str, list[Read]] = {name: from_source(source, schedule.size) for name, source in opened.items()}
    if not recipe.files and schedule.pairs is None:
        chosen = validation_items(items, partner, recipe.data.sources, schedule.size)
        sets["pairs"] = captions_of(chosen)
        if schedule.labels is None and len({item.category for item in chosen if item.category}) > 1:
            sets["labels"] = categories_of(chosen)
    decoded = {name: decode_held_out(f"evaluation.{name}", pairs, decoder) for name, pairs in sets.items()}
    return Evaluator(recipe, processors, decoded.get("pairs"), decoded.get("labels"), device, processes)


def open_held_out(recipe: PretrainRecipe, shards: ShardCache) -> dict[str, PairSource]:
    """The recipe's own sources of held-out pairs and of labels, where there is an evaluation.

    Raises:
        InputError: one that is not there or cannot be used.
        ValueError: one that is also trained on.
    """
    schedule = recipe.evaluation
    sources = {"pairs": schedule.pairs, "labels": schedule.labels} if schedule.every else {}
    return {
        name: _open_held_out(f"evaluation.{name}", source, recipe, shards)
        for name, source in sources.items()
        if source is not None
    }


def _open_held_out(name: str, source: SourceRecipe, recipe: PretrainRecipe, shards: ShardCache) -> PairSource:
    """A source that is not trained on; the manifest of a sample library may be both, since it has splits."""
    opened = open_source(name, source, recipe.stage.partner, shards, "val")
    has_splits = isinstance(opened, ConcatenatedSource) and all(isinstance(p, ManifestSource) for p in opened.parts)
    trained = {place for trained in recipe.files.values() for place in places_of(trained.path)}
    if (both := places_of(source.path) & trained) and not has_splits:
        raise ValueError(f"{name}: {min(both)} is also trained on; give a source that is not")
    return opened


class _Batches:
    """Inputs of one modality in batches of similar length; this process keeps its share, ready for the model."""

    def __init__(
        self,
        name: str,
        examples: Sequence[Example],
        processor: Processor,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.name, self.count, self.device, self.processes = name, len(examples), device, processes
        lengths = [processor.length(example) + 1 for example in examples]
        batches = batch_by_length(lengths, TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"]))
        self.own: list[tuple[list[int], dict[str, Tensor]]] = []
        for start in range(0, len(batches), processes.count):
            # All processes run the model equally often, as sharding wants it; a surplus run does not count.
            index = start + processes.rank
            rows = batches[index] if index < len(batches) else batches[-1]
            inputs = processor.collate([examples[row] for row in rows])
            self.own.append((rows if index < len(batches) else [], inputs))

    def embed(self, losses: PretrainingPass) -> Tensor:
        """Unit-length embeddings of all inputs, in order: (inputs, dim) float32 on the CPU of every process."""
        vectors = torch.empty(0)
        for rows, inputs in self.own:
            made = losses.embed(self.name, {key: value.to(self.device) for key, value in inputs.items()})
            if not vectors.numel():
                vectors = torch.zeros(self.count, made.shape[1])
            vectors[rows] = made[: len(rows)].float().cpu()
        return self.processes.sum(vectors)
