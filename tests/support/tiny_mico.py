"""A MiCo model that trains in milliseconds, and clips for it: pictures with sounds and captions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from PIL import Image

from one_peace.checkpoints.mico.config import input_settings
from one_peace.modalities.wordpiece import train_word_pieces
from one_peace.models.mico.config import MiCoConfig, TextConfig, TowerConfig
from one_peace.models.mico.interface import MiCo
from one_peace.models.mico.loading import open_processors
from one_peace.models.mico.model import MiCoModel

CAPTIONS = ("a red cow", "two green dogs run", "one blue bird", "a dog that sings a song", "black", "a white cow")
FRAMES = {"vision": 2, "audio": 1, "depth": 1}
TOWER = TowerConfig(16, 2, 2, 32, 14, 28)
PIECES = train_word_pieces(CAPTIONS, 60)


def tiny_mico(seed: int = 0, dropout: float = 0.0, drop_path: float = 0.0) -> MiCo:
    """With words of `CAPTIONS`."""
    config = MiCoConfig(
        "tiny",
        TowerConfig(**{**vars(TOWER), "drop_path": drop_path}),
        TextConfig(16, 2, 2, 32, PIECES.vocab_size, 32, dropout),
        8,
        FRAMES,
        MiCoConfig.from_dict(
            {
                "name": "",
                "tower": vars(TOWER),
                "text": vars(TextConfig(16, 2, 2, 32)),
                "contrast_width": 8,
                "frames": FRAMES,
                "modalities": input_settings(28, FRAMES),
            }
        ).modalities,
        max_caption_tokens=10,
    )
    torch.manual_seed(seed)
    model = MiCoModel(config)
    model.initialise()
    return MiCo(model, open_processors(config, PIECES))


def write_clips(folder: Path, count: int = 12) -> Path:
    """A table of pictures with sounds and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    with open(folder / "clips.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "audio", "caption"])
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number}.png")
            soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, 3000).astype(np.float32), 16000)
            rows.writerow([number, f"{number}.png", f"{number}.wav", CAPTIONS[number % len(CAPTIONS)]])
    return folder / "clips.csv"


def write_recipe(folder: Path, **changes: Any) -> Path:
    """A run on such a table, from a saved tiny model, as a YAML file."""
    table = write_clips(folder)
    random = {"dropout": changes.get("dropout") or 0.0, "drop_path": changes.get("drop_path") or 0.0}
    tiny_mico(**random).save_pretrained(folder / "base")
    both = {"path": str(table), "modalities": ["image", "audio"]}
    values = {
        "family": "mico",
        "model": str(folder / "base"),
        "sources": {
            "both": {**both, "tasks": "ret%tv%tva_cap%ta", "weight": 2},
            "sounds": {**both, "modalities": ["audio"], "tasks": "ret%ta_cap%ta"},
        },
        "steps": 5,
        "batch_size": 4,
        "optimizer": {"lr": 3e-3, "warmup_steps": 1},
        "tower_lr": 1e-3,
        "evaluation": {**both, "tuples": [["vision"], ["vision", "audio"]], "every": 3},
        "log_every": 1,
        "save_every": 2,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
