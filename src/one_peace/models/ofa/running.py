"""Texts with pictures through a model: paired, read, in batches of similar length, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from one_peace.errors import InputError
from one_peace.media.sources import describe
from one_peace.models.batching import batch_by_length
from one_peace.models.inputs import are_several, list_inputs
from one_peace.models.ofa.processor import Request

CHUNK = 64  # requests read at a time: bounds memory on long lists
NO_ANSWER = "gets no answer: its scores are not finite numbers, or no allowed one fits"
OnError = Literal["raise", "skip"]
Read: TypeAlias = Callable[[str, Any], Request]
"""A text and a picture, or None -> what the model reads. `InputError` names what cannot be used."""
Work: TypeAlias = Callable[[list[Request]], list[Any]]
"""A batch -> a result of each; None where the model has none."""


@dataclass(frozen=True)
class Results:
    """What `on_error="skip"` returns: `values` of the inputs `kept`, and the others' errors by index."""

    values: list[Any]
    kept: list[int]
    errors: dict[int, InputError]


def run(
    texts: str | Iterable[str],
    images: Any,
    read: Read,
    work: Work,
    *,
    length: Callable[[Request], int],
    positions: int,
    batch_size: int | None,
    on_error: OnError,
) -> Any:
    """What `work` makes of each pair: one result of a single pair, otherwise a list or, with "skip", `Results`.

    Args:
        length: positions that a request takes. A batch has at most `positions`, and `batch_size` requests.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    given, sources, single = paired(texts, images)
    values: dict[int, Any] = {}
    errors: dict[int, InputError] = {}
    for start in range(0, len(given), CHUNK):
        requests: list[Request] = []
        owners: list[int] = []
        made = _requests(read, given[start : start + CHUNK], sources[start : start + CHUNK])
        for index, result in enumerate(made, start):
            if isinstance(result, InputError):
                if on_error == "raise":
                    raise result
                errors[index] = result
            else:
                requests.append(result)
                owners.append(index)
        for batch in batch_by_length([length(request) for request in requests], positions, batch_size):
            with torch.inference_mode():
                results = work([requests[i] for i in batch])
            for index, result in zip([owners[i] for i in batch], results, strict=True):
                if result is not None:
                    values[index] = result
                    continue
                name = repr(given[index])[:60] if sources[index] is None else describe(sources[index])
                error = InputError(name, NO_ANSWER)
                if on_error == "raise":
                    raise error
                errors[index] = error
    kept = sorted(values)
    if on_error == "skip":
        return Results([values[index] for index in kept], kept, errors)
    return values[0] if single else [values[index] for index in kept]


def paired(texts: str | Iterable[str], images: Any) -> tuple[list[str], list[Any], bool]:
    """Texts and pictures side by side, a single one repeated; and whether both were single."""
    several_images, several_texts = are_several(images), isinstance(texts, Iterable) and not isinstance(texts, str)
    given: list[Any] = list(texts) if several_texts else [texts]
    sources = list_inputs(images)
    if several_texts and several_images and len(given) != len(sources):
        raise ValueError(f"{len(sources)} pictures for {len(given)} texts; give as many, or a single one for all")
    if several_texts and not several_images:
        sources *= len(given)
    elif several_images and not several_texts:
        given *= len(sources)
    return given, sources, not several_texts and not several_images


def checked_text(text: Any) -> str:
    """The text itself. `InputError` for what is none."""
    if not isinstance(text, str):
        raise InputError(repr(text)[:60], f"expected a text (str), got {type(text).__name__}")
    return text


def _requests(read: Read, texts: Sequence[str], sources: Sequence[Any]) -> Iterable[Request | InputError]:
    def request(text: str, source: Any) -> Request | InputError:
        try:
            return read(checked_text(text), source)
        except InputError as error:
            return error

    if len(texts) < 4:
        return map(request, texts, sources)
    with ThreadPoolExecutor() as pool:
        return list(pool.map(request, texts, sources))
