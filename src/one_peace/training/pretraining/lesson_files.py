"""What is made once ahead of a run's updates, in files: who goes on after an interruption finds it there.

Synthetic voices leave something to chance, so that clips made again would be others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from one_peace.atomic_files import replacing
from one_peace.checkpoints.tensor_file import write_tensor_file
from one_peace.errors import CheckpointError


@dataclass(frozen=True)
class Heard:
    """What the kept front end makes of a clip: `frames` (frames, channels) float16, with the labels of its columns and
    what it says in English."""

    frames: Tensor
    sounds: Tensor
    words: Tensor
    caption: str


def made_once(path: Path, make: Callable[[], Mapping[str, Sequence[Tensor]]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file; where it is not there yet `make` gives them, each in pieces along dimension 0.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write_tensor_file(partial, made)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}); remove {path.parent} to begin anew") from error


def heard_once(path: Path, make: Callable[[], Sequence[Heard]]) -> list[Heard]:
    """The clips in a file, as `made_once`."""
    found = made_once(path, lambda: _packed(make()))
    frames, columns = found["lengths"].T.tolist()
    parts = (found["frames"].split(frames), found["sounds"].split(columns), found["words"].split(columns))
    return [Heard(*one) for one in zip(*parts, json.loads(found["captions"].numpy().tobytes()), strict=True)]


def _packed(clips: Sequence[Heard]) -> dict[str, list[Tensor]]:
    lengths = [(len(clip.frames), len(clip.sounds)) for clip in clips]
    captions = json.dumps([clip.caption for clip in clips]).encode()
    return {
        "lengths": [torch.tensor(lengths).view(-1, 2)],
        "captions": [torch.frombuffer(bytearray(captions), dtype=torch.uint8)],
        "frames": [clip.frames for clip in clips] or [torch.empty(0, dtype=torch.float16)],
        "sounds": [clip.sounds for clip in clips] or [torch.empty(0, dtype=torch.int32)],
        "words": [clip.words for clip in clips] or [torch.empty(0, dtype=torch.int32)],
    }
