"""What a library is asked: any mix of inputs with weights, more of what was found, and how answers are ranked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from one_peace.errors import OnePeaceError
from one_peace.models.inputs import list_inputs
from one_peace.search.filters import Filters

ITEM = "item"
"""In place of a part's modality: the source is the id of an item of the library, "more like this"."""

MOST_ANSWERS = 10_000
MOST_PARTS = 64
MOST_RERANKED = 1_000  # each costs a pass of the model over text and picture together
_SHORTEST = 1e-5  # of a sum of unit vectors, compared with the largest weight; what is left of less is rounding


class QueryError(OnePeaceError, ValueError):
    """A query that makes no sense; `field` names what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[type[QueryError], tuple[str, str]]:
        return type(self), (self.field, self.problem)


@dataclass(frozen=True, eq=False)
class Part:
    """One input of a query.

    `modality` is one of the model, or `ITEM`; `source` an input in any form that the model takes, or the id of an
    item. A negative `weight` means "minus this".
    """

    modality: str
    source: Any
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Query:
    """A search: `parts` make one direction in the shared space, the unit-length sum of their weighted embeddings.

    `k` items are answered, among those that `filters` let pass. With `calibrate`, answers of several modalities
    are ranked by how far each stands out within its own modality (`calibration.py`), else by cosine similarity
    alone. The first `rerank` answers are ordered again by encoding each together with the query (`reranking.py`).
    """

    parts: tuple[Part, ...]
    k: int = 10
    filters: Filters = field(default_factory=Filters)
    calibrate: bool = True
    rerank: int = 0

    @classmethod
    def of(cls, inputs: Mapping[str, Any], weights: Mapping[str, float] | None = None, **settings: Any) -> Query:
        """A query of inputs by modality, each one input, a list or an iterator, by the rule of the official demo.

        The weight of a modality (default 1) is shared out evenly among its inputs. `settings` are fields of `Query`.

        Raises:
            QueryError: a weight without input, or an unknown setting.
        """
        given = {name: list_inputs(sources) for name, sources in inputs.items() if sources is not None}
        weights = weights or {}
        for name in weights:
            if not given.get(name):
                raise QueryError("weights", f"there is one for {name!r}, of which there is no input")
        _named("query", settings, cls)
        parts = (
            Part(name, source, _number("weights", weights.get(name, 1.0)) / len(sources))
            for name, sources in given.items()
            for source in sources
        )
        return cls(tuple(parts), **settings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Query:
        """From plain values, as of JSON: `{"parts": [{"modality": "text", "source": "a dog"}], "filters": {...}, ...}`.

        Raises:
            QueryError: an unknown name, with the nearest known one, or a value of the wrong kind.
        """
        settings = _named("query", values, cls)
        parts = settings.pop("parts", ())
        if isinstance(parts, str | Mapping) or not isinstance(parts, Sequence):
            raise QueryError("parts", f"expected a list of inputs, got {parts!r}")
        filters = filters_from(settings.pop("filters", {}))
        return cls(tuple(_part(part) for part in parts), filters=filters, **settings)

    def check(self, modalities: Sequence[str]) -> None:
        """Raises `QueryError` for what no library of a model with these modalities can answer."""
        if not self.parts:
            raise QueryError("parts", "nothing to search by; give a text, a picture or a sound")
        if len(self.parts) > MOST_PARTS:
            raise QueryError("parts", f"{len(self.parts)} inputs; a query takes at most {MOST_PARTS}")
        for part in self.parts:
            check_name("modality", part.modality, [*modalities, ITEM])
            if not _number("weight", part.weight):
                raise QueryError("weight", "is 0; leave out the input instead")
            if part.modality == "text" and isinstance(part.source, str) and not part.source.strip():
                raise QueryError("text", "is empty; say what to search for")
        if all(part.weight < 0 for part in self.parts):
            raise QueryError("weight", "all are negative; say also what is wanted")
        check_whole("k", self.k, 1, MOST_ANSWERS)
        check_whole("rerank", self.rerank, 0, MOST_RERANKED)


def mix(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """The unit-length sum of weighted vectors (dim,), float32.

    Raises:
        QueryError: they cancel each other out.
    """
    total = np.sum([weight * vector.astype(np.float64) for weight, vector in parts], axis=0)
    length = float(np.linalg.norm(total))
    if not length > _SHORTEST * max(abs(weight) for weight, _ in parts):
        raise QueryError("weight", "the inputs cancel each other out; no direction is left to search in")
    return (total / length).astype(np.float32)


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    """Raises `QueryError` for a name that is not among those known, with the nearest of them."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        raise QueryError(what, f"{name!r} is not known{hint}")


def filters_from(values: Any) -> Filters:
    """Filters from plain values, by name; a list stands for a tuple, and one word for a list of it.

    Raises:
        QueryError: an unknown name, with the nearest known one, or a value of the wrong kind.
    """
    if not isinstance(values, Mapping):
        raise QueryError("filters", f"expected names with values, got {values!r}")
    several = {f.name for f in fields(Filters) if f.default == ()}
    given = _named("filters", values, Filters)
    for name in several & given.keys():
        value = given[name]
        given[name] = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else value
    try:
        return Filters(**given)
    except (ValueError, TypeError) as error:
        raise QueryError("filters", str(error)) from error


def _part(values: Any) -> Part:
    if isinstance(values, Part):
        return values
    if not isinstance(values, Mapping):
        raise QueryError("parts", f"expected modality, source and weight, got {values!r}")
    given = _named("parts", values, Part)
    if missing := {"modality", "source"} - given.keys():
        raise QueryError("parts", f"{values!r} has no {min(missing)!r}")
    return Part(**given)


def _named(what: str, values: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    for name in values:
        check_name(what, name, [f.name for f in fields(kind)])
    return dict(values)


def _number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise QueryError(what, f"expected a finite number, got {value!r}")
    return float(value)


def check_whole(what: str, value: Any, least: int, most: int) -> None:
    """Raises `QueryError` for what is no whole number in this range."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise QueryError(what, f"must be a whole number from {least} to {most}, got {value!r}")
