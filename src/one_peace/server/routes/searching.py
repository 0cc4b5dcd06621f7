"""Search, and the map of the library."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter

from one_peace.search.filters import Filters
from one_peace.search.queries import ITEM, Part, Query, QueryError
from one_peace.search.records import Result, moment_of
from one_peace.server import schemas
from one_peace.server.service import Here, Service

router = APIRouter(tags=["search"])


@router.post("/v1/search")
async def search(body: schemas.SearchRequest, service: Here) -> schemas.SearchResponse:
    """The items nearest to a mix of texts, pictures, sounds and items, weighted; negative weights take away."""
    started = time.perf_counter()
    limits = service.settings.limits
    if body.k > limits.answers:
        raise QueryError("k", f"at most {limits.answers} answers are given, got {body.k}")
    inputs = [(part.modality, part.source) for part in body.parts if part.modality != ITEM]
    prepared = iter(await service.prepare(inputs))
    parts = tuple(
        Part(part.modality, part.source if part.modality == ITEM else next(prepared), part.weight)
        for part in body.parts
    )
    query = Query(parts, body.k, _filters(body.filters, service), body.calibrate, body.rerank)
    query.check(service.encoder.modalities)
    results = await service.in_thread(service.library.search, query)
    found = [_found(service, result) for result in results]
    return schemas.SearchResponse(results=found, took=round(time.perf_counter() - started, 4))


@router.get("/v1/map")
async def map_points(service: Here) -> schemas.MapResponse:
    """The library in two dimensions."""
    return await service.in_thread(service.map.points)


def _found(service: Service, result: Result) -> schemas.Found:
    return schemas.Found(
        **service.describe(result),
        rank=result.rank,
        score=round(result.score, 6),
        standing=round(result.standing, 4) if math.isfinite(result.standing) else None,
        why=[round(value, 6) for value in result.why],
        label=result.label,
        start=result.start,
    )


def _filters(given: schemas.Filters, service: Service) -> Filters:
    plain: dict[str, Any] = given.model_dump(exclude={"modality", "tag", "folder", "after", "before"})
    folder = None if given.folder is None else service.path_of(given.folder)
    try:
        return Filters(
            modality=tuple(given.modality),
            tag=tuple(given.tag),
            folder=folder,
            after=_nanoseconds(given.after),
            before=_nanoseconds(given.before),
            **plain,
        )
    except ValueError as error:
        raise QueryError("filters", str(error)) from error


def _nanoseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    return moment_of(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
