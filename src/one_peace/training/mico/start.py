"""What a run of MiCo starts with: a fresh preset or a saved model, its processors, and the clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from one_peace.cache import pair_cache
from one_peace.checkpoints.families import family_of
from one_peace.checkpoints.mico.config import input_settings
from one_peace.checkpoints.registry import resolve
from one_peace.data.clips import ClipShards, LibraryClips
from one_peace.data.manifest import Item, Split
from one_peace.data.opening import is_shard
from one_peace.data.shard_cache import ShardCache, expand_braces
from one_peace.data.task_rows import Rows, TaskRows
from one_peace.errors import CheckpointError, InputError
from one_peace.modalities.base import Processor
from one_peace.modalities.wordpiece import WordPieces, train_word_pieces
from one_peace.models.mico.config import FAMILY, MiCoConfig
from one_peace.models.mico.loading import build_mico, find_pieces, open_processors, open_saved, with_image_size
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import list_presets, preset
from one_peace.tasks.mico.clips import captions_of
from one_peace.tasks.task import media_columns
from one_peace.training.mico.recipe import SAMPLE_LIBRARY, MiCoRecipe

TRAINED_ON = 20_000  # captions that a vocabulary is trained on, evenly from all sources


@dataclass(frozen=True)
class MiCoPlan:
    """The shape of a model, its vocabulary, and the place of its weights, None for fresh ones."""

    config: MiCoConfig
    pieces: WordPieces
    weights: Path | None

    def processors(self) -> dict[str, Processor]:
        """The processors of all the model's modalities."""
        return open_processors(self.config, self.pieces)


def plan_mico(recipe: MiCoRecipe, rows: Mapping[str, Rows], saved: Path | None = None) -> MiCoPlan:
    """What the recipe trains; `saved` is a run's own model, which it goes on with.

    Raises:
        ValueError: settings of presets for a saved model, or no such model; a batch larger than a source.
        CheckpointError: the saved model is of another family, damaged, or has no vocabulary.
    """
    for name, clips in rows.items():
        contrasted = any(task.objective == "retrieval" for task in recipe.sources[name].tasks)
        if contrasted and len(clips) < recipe.batch_size:
            raise ValueError(
                f"batch_size={recipe.batch_size} is more than the {len(clips)} clips of sources.{name}, and "
                "retrieval tells different clips of a batch apart; use smaller batches or more clips"
            )
    if saved is None and recipe.model in list_presets():
        pieces = _vocabulary(recipe, rows)
        return MiCoPlan(_fresh(recipe, pieces), pieces, None)
    try:
        path = saved or resolve(recipe.model)
    except ValueError as error:
        raise ValueError(f"{error}; presets are {', '.join(list_presets())}") from None
    if saved is None and (recipe.frames or recipe.caption_tokens):
        raise ValueError(f"frames and caption_tokens are those of presets; {recipe.model} has its own")
    if family_of(path) != FAMILY:
        raise CheckpointError(f"{path}: is no MiCo model")
    values, _ = open_saved(path)
    if saved is None and recipe.image_size is not None:
        values = with_image_size(values, recipe.image_size)
    found = find_pieces(path, None if saved is not None else recipe.tokenizer)
    if found is None:
        raise CheckpointError(f"{path}: no vocabulary beside it; give tokenizer=FILE, the vocab.txt of its text model")
    return MiCoPlan(_while_training(MiCoConfig.from_dict(values), recipe), found, path)


def start_mico(plan: MiCoPlan, seed: int) -> MiCoModel:
    """The model with its values, whole on the CPU: saved ones, or fresh ones that depend on the seed.

    Raises:
        CheckpointError: names every saved tensor that does not fit.
    """
    if plan.weights is not None:
        _, tensors = open_saved(plan.weights)
        return build_mico(plan.config.to_dict(), tensors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MiCoModel(plan.config)
        model.initialise()
    return model


def open_clips(
    path: str,
    modalities: Sequence[str],
    items: Sequence[Item],
    *,
    only: Sequence[str] = (),
    split: Split = "train",
    withheld: Iterable[str] = (),
) -> Rows:
    """Clips as rows: of the sample library, of shards, of a table.

    Raises:
        InputError: there are none that have all of these modalities.
    """
    if path == SAMPLE_LIBRARY:
        return LibraryClips(items, modalities, split=split, only=only, withheld=set(withheld))
    cache = pair_cache()
    if is_shard(expand_braces(path)[0]):
        return ClipShards(path, modalities, ShardCache(cache))
    return TaskRows(Path(path), modalities, media_columns(), cache)


def _fresh(recipe: MiCoRecipe, pieces: WordPieces) -> MiCoConfig:
    config = preset(recipe.model)
    size = recipe.image_size or config.tower.image_size
    unknown = [name for name in recipe.frames if name not in config.frames]
    if unknown:
        raise ValueError(f"frames: unknown branch {unknown[0]!r}; known: {', '.join(config.frames)}")
    frames = {**config.frames, **recipe.frames}
    longest = recipe.caption_tokens or config.max_caption_tokens
    values = config.to_dict() | {
        "frames": frames,
        "modalities": input_settings(size, frames),
        "tower": {**config.to_dict()["tower"], "image_size": size},
        "text": {**config.to_dict()["text"], "vocab_size": pieces.vocab_size},
        "max_caption_tokens": longest,
        "max_joint_caption_tokens": max(longest, min(config.max_joint_caption_tokens, 2 * longest)),
    }
    return _while_training(MiCoConfig.from_dict(values), recipe)


def _while_training(config: MiCoConfig, recipe: MiCoRecipe) -> MiCoConfig:
    if recipe.drop_path is not None:
        config = dataclasses.replace(config, tower=dataclasses.replace(config.tower, drop_path=recipe.drop_path))
    if recipe.dropout is not None:
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, dropout=recipe.dropout))
    return config


def _vocabulary(recipe: MiCoRecipe, rows: Mapping[str, Rows]) -> WordPieces:
    """The given vocabulary, or one of the training captions."""
    if recipe.tokenizer is not None:
        found = WordPieces.find(Path(recipe.tokenizer))
        if found is None:
            raise ValueError(f"tokenizer={recipe.tokenizer}: holds neither a vocab.txt nor a tokenizer.json")
        return found
    captions: set[str] = set()
    for source in rows.values():
        wanted = min(len(source), max(1, TRAINED_ON // len(rows)))
        for number in range(wanted):
            captions.update(_texts(source, number * len(source) // wanted))
    return train_word_pieces(sorted(captions), recipe.vocabulary)


def _texts(source: Rows, number: int) -> list[str]:
    try:
        key, row = source.row(number)
        return [text for clip in row.get("clips", [row]) for text in captions_of(clip, key)]
    except InputError:  # said when its turn comes
        return []
