"""VQGAN (arXiv 2012.09841) with a Gumbel codebook: pictures to codes for OFA to read and write, codes to pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from one_peace.media.pictures import without_ends
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.layers import Doubling, Halving, Level, Middle, norm


class PictureEncoder(nn.Module):
    """Pictures (batch, 3, H, W) -> features (batch, code width, H / patch, W / patch)."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.width * times for times in config.multipliers]
        self.start = nn.Conv2d(3, config.width, 3, padding=1)
        levels = []
        for index, (inputs, outputs) in enumerate(zip([config.width, *widths], widths, strict=False)):
            step = Halving(outputs) if index < len(widths) - 1 else nn.Identity()
            levels.append(Level([inputs] + [outputs] * config.blocks, config.groups, index in config.attention, step))
        self.levels = nn.ModuleList(levels)
        self.middle = Middle(widths[-1], config.groups)
        self.norm = norm(widths[-1], config.groups)
        self.end = nn.Conv2d(widths[-1], config.code_width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for level in self.levels:
            x = level(x)
        return self.end(F.silu(self.norm(self.middle(x))))


class PictureDecoder(nn.Module):
    """The way back. Levels are numbered as in the encoder, so the last comes first."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        widths = [config.width * times for times in config.multipliers]
        self.start = nn.Conv2d(config.code_width, widths[-1], 3, padding=1)
        self.middle = Middle(widths[-1], config.groups)
        levels = []
        for index, outputs in enumerate(widths):
            inputs = widths[min(index + 1, len(widths) - 1)]
            step = Doubling(outputs) if index > 0 else nn.Identity()
            levels.append(
                Level([inputs] + [outputs] * (config.blocks + 1), config.groups, index in config.attention, step)
            )
        self.levels = nn.ModuleList(levels)
        self.norm, self.end = norm(widths[0], config.groups), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.start(x))
        for level in reversed(self.levels):
            x = level(x)
        return self.end(F.silu(self.norm(x)))


class Vqgan(nn.Module):
    """Pictures are (batch, 3, H, W) float in [-1, 1], H and W multiples of `config.patch`; codes (batch, h, w)
    int64."""

    def __init__(self, config: VqganConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = PictureEncoder(config), PictureDecoder(config)
        self.before_codes = nn.Conv2d(config.code_width, config.code_width, 1)
        self.scores = nn.Conv2d(config.code_width, config.codes, 1)
        self.codebook = nn.Embedding(config.codes, config.code_width)
        self.after_codes = nn.Conv2d(config.code_width, config.code_width, 1)

    def code_scores(self, pictures: Tensor) -> Tensor:
        """Logits of every code at every place, (batch, codes, h, w)."""
        patch = self.config.patch
        if pictures.ndim != 4 or pictures.shape[1] != 3 or pictures.shape[2] % patch or pictures.shape[3] % patch:
            raise ValueError(f"pictures are (batch, 3, H, W) with sides of {patch} x n, got {tuple(pictures.shape)}")
        return self.scores(self.features(pictures))

    def features(self, pictures: Tensor) -> Tensor:
        """What codes are chosen by, (batch, code width, h, w)."""
        return self.before_codes(self.encoder(pictures))

    def encode(self, pictures: Tensor) -> Tensor:
        """The most probable code of each place, (batch, h, w). The published code adds noise here, even when
        evaluating."""
        return self.code_scores(pictures).argmax(dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures of codes; values may lie somewhat outside of [-1, 1]. ValueError for codes that do not exist."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codes:
            raise ValueError(f"codes are 0 to {self.config.codes - 1}, got {int(codes.min())} to {int(codes.max())}")
        return self.decode_features(self.codebook(codes).permute(0, 3, 1, 2))

    def decode_features(self, features: Tensor) -> Tensor:
        """Pictures of entries of the codebook, or of anything else of their shape (batch, code width, h, w)."""
        return self.decoder(self.after_codes(features))

    def forward(self, pictures: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """For training: reconstructions through codes drawn at random, and the logits that they were drawn by.

        One code per place is decoded, and the gradient is that of the softmax of logits and Gumbel noise over
        `temperature` (arXiv 1611.01144): straight through.
        """
        logits = self.code_scores(pictures)
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device).clamp_(1e-10, 1 - 1e-7)
        soft = ((logits - (-uniform.log()).log()) / temperature).softmax(dim=1)
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
        mixed = torch.einsum("bchw,cd->bdhw", hard - soft.detach() + soft, self.codebook.weight)
        return self.decode_features(mixed), logits


def picture_of(pixels: Tensor) -> Image.Image:
    """A picture of (3, H, W) in [-1, 1]; what lies outside is cut off, values are rounded down, as published."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).numpy()))


def pixels_of(image: Image.Image, size: int) -> Tensor:
    """An RGB picture as (3, size, size) in [-1, 1]: the shorter side resized to `size` (Lanczos), then the middle."""
    image = without_ends(image)
    width, height = image.size
    scale = size / min(width, height)
    image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)), dtype=np.uint8))
    return pixels.permute(2, 0, 1).float().div_(127.5).sub_(1.0).contiguous()
