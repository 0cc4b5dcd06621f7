"""What every model of embeddings offers its users: raw inputs in, unit-length embeddings out."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.checkpoints.native import write_folder
from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.models.batching import batch_by_length
from one_peace.models.inputs import Decoded, are_several, check_modalities, decode_in_parts, list_inputs, several_texts

CHUNK = 512  # inputs that are batched together at most
_LARGEST_WEIGHT = 1e9  # far more than makes sense; squares of it still fit float32
_COMPILED = "_orig_mod."
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


@dataclass(frozen=True)
class EmbeddingResult:
    """What `on_error="skip"` returns: `vectors` (kept, dim) of the inputs `kept`, and the others' errors by index."""

    vectors: Tensor
    kept: list[int]
    errors: dict[int, InputError]


class Options(TypedDict, total=False):
    """Options of `EmbeddingModel.encode_modality`, which the other `encode_*` methods pass on."""

    batch_size: int | None
    progress: bool | None
    whole: bool


class EmbeddingModel(ABC):
    """A network with the processors of its modalities.

    Every `encode_*` method takes one input or a list of them and returns float32 unit-length rows (n, dim) on the
    CPU. Inputs of different lengths are batched together by length; padding never changes a result.
    """

    encoder: Any
    """The network: a module with `embed(name, inputs)`, from a collated batch to unit-length rows (batch, dim)."""

    processors: dict[str, Processor]

    @property
    @abstractmethod
    def config(self) -> Any:
        """Shape and name of the model."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    def tokens(self, name: str, example: Example) -> int:
        """Tokens that an example takes in the network: the unit that batches are bounded by."""
        return self.processors[name].length(example) + 1

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that this model can encode."""
        return tuple(self.processors)

    @property
    def fingerprint(self) -> str:
        """Identifies the vector space: equal for equal weights and preprocessing, on every device.

        Computed anew each time, in milliseconds, since the weights may have been trained or replaced since.
        float32 and bfloat16 count as equal; float16 too, unless the weights are stored in more than its precision.
        """
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, parameter in sorted(self._parameters().items()):
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 64)].cpu().to(torch.bfloat16)
            digest.update(name.encode() + sample.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves the weights in place and returns the model."""
        self.encoder.to(device=device, dtype=dtype)
        return self

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the model to a folder that `from_pretrained` reads, in the dtype that it has; returns the folder."""

        def files(target: Path) -> None:
            for processor in self.processors.values():
                processor.save(target)

        tensors = {name: [parameter.detach()] for name, parameter in self._parameters().items()}
        return write_folder(Path(folder), self.config.to_dict(), tensors, write_files=files)

    def _parameters(self) -> dict[str, Tensor]:
        """Those of the network by name, without what `torch.compile` adds to the names of a module that it wraps."""
        return {name.replace(_COMPILED, ""): parameter for name, parameter in self.encoder.named_parameters()}

    @overload
    def encode_text(
        self, texts: str | Iterable[str], *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_text(
        self, texts: str | Iterable[str], *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_text(self, texts: str | Iterable[str], **options: Any) -> Any:
        """Texts -> (n, dim): one, or any number in a list, a set, an array, a column of a table, an iterator.

        Options as in `encode_modality`.
        """
        return self.encode_modality("text", several_texts(texts), **options)

    @overload
    def encode_image(
        self, images: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_image(
        self, images: Any, *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_image(self, images: Any, **options: Any) -> Any:
        """Pictures (path, bytes, file, file:// URL, PIL, array, tensor) -> (n, dim); see `encode_modality`."""
        return self.encode_modality("image", images, **options)

    @overload
    def encode_audio(
        self, sounds: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_audio(
        self, sounds: Any, *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_audio(self, sounds: Any, **options: Any) -> Any:
        """Sounds (path, bytes, file, file:// URL, (waveform, rate), array at 16 kHz) -> (n, dim).

        A clip over the model's limit (15 s as published) is covered by windows of that length, whose embeddings are
        averaged. Options as in `encode_modality`.
        """
        return self.encode_modality("audio", sounds, **options)

    @overload
    def encode_modality(
        self, name: str, inputs: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[Options]
    ) -> Tensor: ...
    @overload
    def encode_modality(
        self, name: str, inputs: Any, *, on_error: Literal["skip"], **options: Unpack[Options]
    ) -> EmbeddingResult: ...
    def encode_modality(
        self,
        name: str,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        whole: bool = True,
    ) -> Any:
        """Embeds inputs of any modality of this model: a list or an iterator is many inputs, anything else is one.

        Returns a Tensor (n, dim), or with `on_error="skip"` an `EmbeddingResult`. With "raise" the first input
        that cannot be used raises `InputError`. Inputs are decoded a few ahead, so an iterator may be of any length.
        `progress` defaults to showing a bar for long lists on terminals.
        Of an input over the model's limit, `whole=False` takes the beginning alone, as published evaluations do.
        """
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        processor = self._processor(name)
        sources = _track(inputs if are_several(inputs) else [inputs], name, progress)
        views = processor.views if whole else lambda source: [processor(source)]
        rows = [torch.zeros(0, self.dim, dtype=torch.float32, device="cpu")]
        kept: list[int] = []
        errors: dict[int, InputError] = {}
        with closing(decode_in_parts(sources, views, CHUNK)) as parts:
            for part in parts:
                failed = {one.index: one.error for one in part if one.error is not None}
                if failed and on_error == "raise":
                    raise next(iter(failed.values()))
                vectors, lost = self._embed_part(name, part, batch_size)
                if lost and on_error == "raise":
                    raise next(iter(lost.values()))
                errors |= dict(sorted({**failed, **lost}.items()))
                kept += [one.index for one in part if one.index not in errors]
                rows.append(vectors)
        vectors = F.normalize(torch.cat(rows), dim=1)
        return vectors if on_error == "raise" else EmbeddingResult(vectors, kept, errors)

    def encode(self, *, weights: Mapping[str, float] | None = None, **inputs: Any) -> Tensor:
        """One query (1, dim) from any mix of inputs by modality: `encode(image="dog.jpeg", text="swimming")`.

        The unit-length embeddings are averaged with `weights` per modality (default 1) and normalised, the rule of
        the official demo. A list gives several inputs of one modality. `ValueError` for an empty list, a weight
        without input or above 1e9, or parts that cancel out.
        """
        if not inputs:
            raise ValueError(f"nothing to encode; give at least one of {', '.join(self.modalities)}")
        weights = weights or {}
        for name, weight in weights.items():
            if name not in inputs:
                raise ValueError(f"a weight for {name!r}, of which there is no input")
            if not abs(weight) <= _LARGEST_WEIGHT:
                raise ValueError(f"the weight of {name!r} must be from -1e9 to 1e9, got {weight}")
        mix = torch.zeros(1, self.dim, dtype=torch.float32, device="cpu")
        for name, sources in inputs.items():
            rows = self.encode_modality(name, sources)
            if not len(rows):
                raise ValueError(f"nothing to encode: the list for {name!r} is empty")
            mix += weights.get(name, 1.0) * rows.mean(dim=0, keepdim=True)
        if mix.norm() < 1e-6:
            raise ValueError("the weighted inputs cancel out; no direction is left to search in")
        return F.normalize(mix, dim=1)

    @staticmethod
    def similarity(first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Tensor:
        """Cosine similarities (n, m) of two sets of embeddings, as of a file that `one-peace embed` wrote."""
        one, other = (F.normalize(torch.as_tensor(rows).float(), dim=-1) for rows in (first, second))
        return one @ other.t()

    def _embed_part(
        self, name: str, part: list[Decoded], batch_size: int | None
    ) -> tuple[Tensor, dict[int, InputError]]:
        """The mean embedding of each usable input, (n, dim), and by index the errors of those that have none."""
        views = [view for one in part for view in one.views]
        numbers = [number for number, one in enumerate(part) for _ in one.views]
        owners = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        sums = torch.zeros(len(part), self.dim, dtype=torch.float32, device="cpu")
        sums.index_add_(0, owners, self._embed_views(name, views, batch_size))
        finite = sums.isfinite().all(dim=1).tolist()
        lost = {
            one.index: InputError(one.name, "gives no finite embedding; does it hold NaN?")
            for one, is_finite in zip(part, finite, strict=True)
            if not is_finite
        }
        return sums[[n for n, one in enumerate(part) if one.error is None and finite[n]]], lost

    @torch.inference_mode()
    def _embed_views(self, name: str, views: list[Example], batch_size: int | None) -> Tensor:
        processor = self.processors[name]
        vectors = torch.empty(len(views), self.dim, dtype=torch.float32, device="cpu")
        lengths = [self.tokens(name, v) for v in views]
        budget = TOKENS_PER_BATCH.get(self.device.type, TOKENS_PER_BATCH["cpu"])
        for batch in batch_by_length(lengths, budget, batch_size):
            inputs = self._move(processor.collate([views[i] for i in batch]))
            vectors[batch] = self.encoder.embed(name, inputs).float().cpu()
        return vectors

    def _move(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.to(self.device) for key, value in batch.items()}

    def _collated(self, name: str, sources: Any) -> dict[str, Tensor]:
        """A batch of one or several inputs, on the model's device; of what is over its limit the beginning alone."""
        processor = self._processor(name)
        # neither the letters of a text nor the rows of a picture, one by one
        several = list(sources) if isinstance(sources, tuple) else list_inputs(sources)
        examples = [processor(source) for source in several]
        if not examples:
            raise ValueError(f"nothing to encode: the list for {name!r} is empty")
        return self._move(processor.collate(examples))

    def _processor(self, name: str) -> Processor:
        check_modalities([name], self.modalities, self.config.name)
        return self.processors[name]


def _track(inputs: Iterable[Any], name: str, progress: bool | None) -> Iterable[Any]:
    if progress is None:
        progress = length_hint(inputs) > CHUNK and sys.stderr.isatty()
    if not progress:
        return inputs
    from rich.console import Console
    from rich.progress import track

    return track(inputs, description=f"encoding {name}", console=Console(stderr=True))
