"""`from_pretrained` for every family of models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from one_peace.checkpoints.families import family_of
from one_peace.checkpoints.registry import resolve
from one_peace.models.embedding import EmbeddingModel


def load_embedder(name_or_path: str | os.PathLike[str], device: str = "cpu") -> Any:
    """`from_pretrained` where embeddings are needed. `ValueError` for a model that has none."""
    model = from_pretrained(name_or_path, device=device)
    if not isinstance(model, EmbeddingModel):
        raise ValueError(f"{name_or_path} is an OFA model: it writes and gives no embeddings; name another one")
    return model


@torch.inference_mode(False)  # weights made in it could not be trained or changed to another dtype outside of it
def from_pretrained(
    name_or_path: str | os.PathLike[str],
    model_type: str | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    download_root: str | os.PathLike[str] | None = None,
    *,
    modalities: Sequence[str] | None = None,
    image_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Any:
    """A model ready to use, from a built-in name, an official name, a hub id, a folder of ours or a published file.

    What the file holds decides the family: `OnePeace` for embeddings, `Ofa` for words and boxes, MiCo. `modalities`
    loads some of them only, where a model has several. `image_size` (pixels) is that of the model's square input.
    For published checkpoints `tokenizer` is a tokenizer.json or a folder with one or with the published files of a
    vocabulary; by default it is looked for beside the file and in $ONE_PEACE_VOCAB. `model_type` and `download_root`
    are those of the published function of ONE-PEACE.

    Raises:
        ValueError: no such name, or an option that the family does not have.
        FileNotFoundError: no such path.
        CheckpointError: a file that is damaged, unsafe or does not fit; every tensor that does not is named.
        DownloadError: the weights have to be fetched and cannot be.
    """
    if image_size is not None:
        if not isinstance(image_size, Integral):
            raise ValueError(f"image_size is a whole number of pixels, got {image_size!r}")
        image_size = int(image_size)  # a NumPy number could not be written into config.json
    path = resolve(name_or_path, download_root=None if download_root is None else Path(download_root))
    family = family_of(path)
    if family == "one_peace":
        from one_peace.models.one_peace import loading as one_peace

        return one_peace.from_pretrained(
            path, model_type, device, dtype, modalities=modalities, image_size=image_size, tokenizer=tokenizer
        )
    if model_type is not None:
        raise ValueError(f"model_type is an option of ONE-PEACE models; {path} is of the family {family}")
    if family == "ofa":
        from one_peace.models.ofa import loading as ofa

        if modalities is not None:
            raise ValueError(f"{path}: an OFA model has no modalities to choose from")
        return ofa.from_pretrained(path, device, dtype, image_size=image_size, tokenizer=tokenizer)
    from one_peace.models.mico import loading as mico

    return mico.from_pretrained(path, device, dtype, modalities=modalities, image_size=image_size, tokenizer=tokenizer)
