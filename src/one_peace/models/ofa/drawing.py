"""Image codes drawn at random, and the pictures that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from one_peace.generation.constraints import TokenRange
from one_peace.generation.sampling import sample
from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import BOS_ID
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.encoder import Encoded
from one_peace.models.ofa.model import OfaModel
from one_peace.models.vqgan.model import Vqgan, picture_of


def checked_coder(coder: Vqgan | None, config: OfaConfig) -> Vqgan:
    """The coder itself. `ValueError` for none, or one with other codes than a model of this config."""
    if coder is None:
        raise ValueError("drawing needs a model of image codes: set `coder` to the VQGAN that the codes are of")
    if coder.config.codes != config.codes:
        raise ValueError(
            f"the coder has {coder.config.codes} codes, this model {config.codes}; set `coder` to the VQGAN that it "
            "learned its codes from"
        )
    return coder


def draw_codes(
    model: OfaModel,
    encoded: Encoded,
    first_code: int,
    settings: GenerationSettings,
    seeds: Sequence[int],
    *,
    top_k: int,
    top_p: float,
) -> list[list[Tensor]]:
    """`settings.beams` grids of codes (side, side) int64 for each input, by descending score.

    Those of an input depend on it and its seed alone. `first_code`: the id of the first code. The rest as for `sample`.
    """
    config, device = model.config, encoded.features.device
    start = torch.full((len(seeds), 1), BOS_ID, device=device)
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    allowed = TokenRange(first_code, first_code + config.codes, specials_at_end=True)
    decoder = model.start(encoded, codes=True)
    drawn = sample(decoder, start, settings, generators, top_k=top_k, top_p=top_p, constraint=allowed)
    side = config.code_grid
    return [
        [torch.tensor(one.tokens[: side**2]).view(side, side) - first_code for one in hypotheses]
        for hypotheses in drawn
    ]


def coded_picture(codes: Tensor, coder: Vqgan) -> Image.Image:
    """The picture of codes (h, w)."""
    return picture_of(coder.decode(codes[None].to(next(coder.parameters()).device))[0])
