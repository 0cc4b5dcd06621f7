"""What a picture of the library shows, and where in it something is, by the OFA model that the service was given."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException

from one_peace.errors import InputError
from one_peace.server import schemas
from one_peace.server.errors import RESPONSES
from one_peace.server.routes.items import Id, content_of
from one_peace.server.service import Here, Service
from one_peace.server.writing_model import WritingModel

router = APIRouter(prefix="/v1/items", tags=["describe"])
_ANSWERS: dict[int | str, dict[str, Any]] = {status: RESPONSES[status] for status in (404, 410)}


@router.post("/{id}/describe", responses=_ANSWERS)
async def describe(id: Id, service: Here) -> schemas.Description:
    """A picture in words."""
    model, picture = await _asked(service, id)
    caption = await asyncio.wrap_future(model.describe(picture))
    return schemas.Description(model=model.name, caption=caption)


@router.post("/{id}/locate", responses=_ANSWERS)
async def locate(id: Id, body: schemas.LocateRequest, service: Here) -> schemas.Location:
    """Where in a picture the thing is that a phrase means. There is always an answer, also where no such thing is."""
    model, picture = await _asked(service, id)
    box = await asyncio.wrap_future(model.locate(picture, body.phrase))
    return schemas.Location(model=model.name, phrase=body.phrase, box=[round(side, 1) for side in box])


async def _asked(service: Service, id: str) -> tuple[WritingModel, Path]:
    """The model and the file of an item."""
    if service.writing is None:
        raise HTTPException(404, "this service has no model that describes pictures: start it with --ofa MODEL")
    found, path = await content_of(service, id)
    if found.modality != "image":
        raise InputError(id, f"is of the modality {found.modality}; pictures alone can be described")
    return service.writing, path
