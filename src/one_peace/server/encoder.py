"""The model as the service uses it: whoever encodes, clients and library alike, goes through one batcher."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.modalities.base import Example
from one_peace.models.embedding import EmbeddingResult
from one_peace.models.inputs import are_several, list_inputs
from one_peace.models.mico.interface import MiCo
from one_peace.models.one_peace.interface import OnePeace
from one_peace.server.batcher import Batcher

BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}  # small on CPUs: a batch is what an urgent input may have to wait for


@dataclass(frozen=True, eq=False)
class Prepared:
    """An input that has been decoded: its views, as the processor of its modality makes them."""

    views: list[Example]


class BatchingEncoder:
    """An encoder for a `Library`, safe to call from any thread; inputs of all callers share batches.

    An input is what the model takes, or `Prepared`.

    Args:
        seconds: how long an input may take, waiting included; `TimeoutError` after that.
    """

    def __init__(
        self, model: OnePeace | MiCo, *, max_wait: float = 10.0, seconds: float = 60.0, observe: Any = None
    ) -> None:
        self.model = model
        self._seconds = seconds
        self._lock = threading.Lock()  # the model serves one call at a time: batches, and joint encoding
        if isinstance(model, MiCo):
            self.match = self._match  # what has no such method is asked for joint features
        budget = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
        options = {} if observe is None else {"observe": observe}
        self.batcher = Batcher(self._embed, self._length, max_tokens=budget, max_wait=max_wait, **options)

    @property
    def config(self) -> Any:
        """Shape and name of the model."""
        return self.model.config

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities that can be encoded."""
        return self.model.modalities

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.model.dim

    @cached_property  # asked for by every request, of a model that nobody trains meanwhile
    def fingerprint(self) -> str:
        """Identifies the vector space."""
        return self.model.fingerprint

    def views(self, modality: str, source: Any) -> list[Example]:
        """The examples of an input. Raises `InputError`."""
        if isinstance(source, Prepared):
            return source.views
        if modality not in self.model.processors:
            raise InputError(modality, f"is no modality of this model, which has {', '.join(self.modalities)}")
        return self.model.processors[modality].views(source)

    def submit(self, modality: str, source: Any) -> list[Future[np.ndarray]]:
        """Futures of the embeddings of an input's views; `combine` makes one of them."""
        return self.batcher.submit(modality, self.views(modality, source))

    def encode_modality(
        self,
        name: str,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Any:
        """As `OnePeace.encode_modality`; `batch_size` and `progress` have no say here."""
        waiting: dict[int, list[Future[np.ndarray]]] = {}
        errors: dict[int, InputError] = {}
        for i, source in enumerate(inputs if are_several(inputs) else [inputs]):
            try:
                waiting[i] = self.submit(name, source)
            except InputError as error:
                if on_error == "raise":
                    cancel(waiting.values())
                    raise
                errors[i] = error
        try:
            rows = [combine([future.result(self._seconds) for future in futures]) for futures in waiting.values()]
        finally:
            cancel(waiting.values())
        vectors = torch.from_numpy(np.array(rows, np.float32).reshape(-1, self.dim))
        return vectors if on_error == "raise" else EmbeddingResult(vectors, list(waiting), errors)

    def encode(self, *, weights: Mapping[str, float] | None = None, **inputs: Any) -> Tensor:
        """As `OnePeace.encode`."""
        mix = np.zeros(self.dim, np.float32)
        for name, sources in inputs.items():
            rows = self.encode_modality(name, sources)
            mix += (weights or {}).get(name, 1.0) * rows.mean(dim=0).numpy()
        if np.linalg.norm(mix) < 1e-6:
            raise ValueError("the weighted inputs cancel out; no direction is left to search in")
        return torch.from_numpy(unit(mix))[None]

    @property
    def encoder(self) -> Any:
        """The network, for projecting features."""
        return self.model.encoder

    @torch.inference_mode()
    def features(self, **inputs: Any) -> dict[str, Tensor]:
        """As `OnePeace.features`, one call at a time; of an input with several views the first counts."""
        batches = {}
        for name, sources in inputs.items():
            examples = [self.views(name, source)[0] for source in list_inputs(sources)]
            batches[name] = self._collate(name, examples)
        with self._lock:
            joint: dict[str, Tensor] = self.model.encoder(batches)
        return joint

    def _match(self, texts: Any, **inputs: Any) -> Tensor:
        """As `MiCo.match`, one call at a time."""
        assert isinstance(self.model, MiCo)
        with self._lock:
            return self.model.match(texts, **inputs)

    def close(self) -> None:
        """Finishes what was submitted; nothing can be encoded after that."""
        self.batcher.close()

    def _length(self, modality: str, example: Example) -> int:
        return self.model.tokens(modality, example)

    @torch.inference_mode()
    def _embed(self, modality: str, examples: list[Example]) -> np.ndarray:
        inputs = self._collate(modality, examples)
        with self._lock:
            return self.model.encoder.embed(modality, inputs).float().cpu().numpy()

    def _collate(self, modality: str, examples: list[Example]) -> dict[str, Tensor]:
        batch = self.model.processors[modality].collate(examples)
        return {key: value.to(self.model.device) for key, value in batch.items()}


def combine(views: Sequence[np.ndarray]) -> np.ndarray:
    """The embedding of an input, (dim,) of unit length: the direction of the mean of its views'."""
    return unit(np.mean(views, axis=0)) if len(views) > 1 else unit(views[0])


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector with length 1, float32."""
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def cancel(waiting: Any) -> None:
    """Takes futures off the queue that nobody waits for any more; those that are done stay done."""
    for futures in waiting:
        for future in futures:
            future.cancel()
