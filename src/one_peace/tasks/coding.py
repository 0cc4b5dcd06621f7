"""Pictures for a coder: what it learns from, and how near its reconstructions come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from one_peace.media.pictures import decode_picture
from one_peace.models.vqgan.model import pixels_of
from one_peace.tasks.task import Row, column, prepare

CODING = "picture-coding"  # the kind of task
COLUMNS = ("image",)


def read_pixels(row: Row, key: str, size: int) -> Tensor:
    """The row's `image` as (3, size, size) in [-1, 1]. `BadRow` names one that cannot be read."""

    def pixels(value: Any) -> dict[str, Tensor]:
        return {"pixels": pixels_of(decode_picture(value), size)}

    return prepare(pixels, column(row, "image", key), "image", key)["pixels"]


class CodingFigures:
    """How near reconstructions come to pictures, and how many codes they are made of.

    `psnr`: peak signal-to-noise ratio in dB, mean over pictures. `psnr_mean_picture`: that of the mean of all pictures
    in place of every reconstruction, the best that can be done without looking. `perplexity` of the codes: as many
    codes, all used equally often, would tell as much; `codes`: how many were used at all.
    """

    main = "psnr"

    def __init__(self, codes: int) -> None:
        self.counts = torch.zeros(codes, dtype=torch.int64)
        self.errors: list[Tensor] = []
        self.pictures: list[Tensor] = []

    def add(self, pictures: Tensor, codes: Tensor, reconstructed: Tensor) -> None:
        """Pictures and reconstructions (batch, 3, H, W) in [-1, 1], and the codes (batch, h, w) between."""
        self.counts += torch.bincount(codes.flatten().cpu(), minlength=len(self.counts))
        self.errors.append(_squared(reconstructed.float().clamp(-1, 1), pictures))
        self.pictures.append(pictures.cpu())

    def result(self) -> dict[str, float]:
        """Figures by name. `ValueError` without a single picture."""
        if not self.pictures:
            raise ValueError("no pictures to measure a coder on")
        pictures = torch.cat(self.pictures)
        shares = self.counts[self.counts > 0] / self.counts.sum()
        return {
            "psnr": _psnr(torch.cat(self.errors)),
            "psnr_mean_picture": _psnr(_squared(pictures.mean(dim=0, keepdim=True), pictures)),
            "perplexity": float((-(shares * shares.log()).sum()).exp()),
            "codes": float((self.counts > 0).sum()),
            "examples": float(len(pictures)),
        }


def _squared(made: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference of each picture, where black to white is 1."""
    return ((made - pictures) / 2).square().flatten(1).mean(dim=1).cpu()


def _psnr(errors: Tensor) -> float:
    return float((-10 * errors.clamp(min=1e-10).log10()).mean())
