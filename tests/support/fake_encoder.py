"""An encoder without weights: equal contents have equal vectors, alike pictures have alike ones."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture
from one_peace.media.sounds import decode_sound

DIM = 16


@dataclass
class FakeResult:
    vectors: Tensor
    kept: list[int]
    errors: dict[int, InputError]


class FakeEncoder:
    """Has the methods of `OnePeace` that searching needs; `encoded` counts the inputs by modality."""

    modalities = ("text", "image", "audio")
    dim = DIM

    def __init__(self, fingerprint: str = "fake-1") -> None:
        self.fingerprint = fingerprint
        self.encoded: Counter[str] = Counter()

    def encode_modality(
        self, name: str, inputs: Any, /, *, progress: bool | None = None, on_error: str = "raise"
    ) -> Any:
        sources = inputs if isinstance(inputs, list) else [inputs]
        self.encoded[name] += len(sources)
        rows, kept, errors = [], [], {}
        for i, source in enumerate(sources):
            try:
                rows.append(_features(name, source))
                kept.append(i)
            except InputError as error:
                if on_error == "raise":
                    raise
                errors[i] = error
        vectors = F.normalize(torch.tensor(np.array(rows), dtype=torch.float32).reshape(-1, DIM), dim=1)
        return vectors if on_error == "raise" else FakeResult(vectors, kept, errors)

    def encode(self, *, weights: Mapping[str, float] | None = None, **inputs: Any) -> Tensor:
        parts = [
            (weights or {}).get(name, 1.0) * self.encode_modality(name, given).mean(0, keepdim=True)
            for name, given in inputs.items()
        ]
        return F.normalize(torch.stack(parts).sum(0), dim=1)


def _features(name: str, source: Any) -> np.ndarray:
    features = np.zeros(DIM)
    if name == "image":
        features[:3] = np.asarray(decode_picture(source), np.float64).mean((0, 1)) / 255
        features[3] = 0.1
    elif name == "audio":
        waveform = decode_sound(source).astype(np.float64)
        features[4] = np.abs(np.diff(waveform)).mean()
        features[5] = np.abs(waveform).mean()
    elif source in ("red", "green", "blue"):
        features[("red", "green", "blue").index(source)] = 1
    else:
        seed = int.from_bytes(hashlib.sha256(source.encode()).digest()[:4])
        features[6:] = np.random.default_rng(seed).standard_normal(DIM - 6)
    return features


def write_picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    Image.new("RGB", size, color).save(path)


def write_sound(path: Path, hertz: float, seconds: float = 0.5) -> None:
    time = np.arange(int(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), 16_000)


def hide_animals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every folder named `animals` unreadable, also for root, whom no file mode stops."""
    scan = os.scandir

    def refuse(place: os.PathLike[str]) -> object:
        if os.fspath(place).endswith("animals"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
