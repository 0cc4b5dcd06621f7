"""The items of the library: list, add, look at, remove."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Path, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from one_peace.errors import InputError
from one_peace.search.manifest import UnknownItemError
from one_peace.search.records import stored_moment
from one_peace.server import schemas
from one_peace.server.errors import RESPONSES
from one_peace.server.service import Here, Service, item
from one_peace.server.sniffing import type_of_file

router = APIRouter(prefix="/v1/items", tags=["items"])

Id = Annotated[str, Path(min_length=1, max_length=128)]
# Shown by the browser alone, without scripts and without access to the page that it may be opened from.
_MEDIA_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; "
    "style-src 'unsafe-inline'",
    "cache-control": "private, no-cache",
}


class _Media(FileResponse):
    """A file, whose refusals of a range have the shape of all errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                size = Headers(raw=message["headers"]).get("content-range")
                problem = "cannot be understood" if size is None else f"asks for what the file does not have, {size}"
                raise HTTPException(
                    message["status"],
                    f"the header Range {problem}",
                    headers=None if size is None else {"Content-Range": size},
                )
            await send(message)

        await super().__call__(scope, receive, checked)


@router.get("")
async def list_items(
    service: Here,
    page: Annotated[schemas.PageRequest, Query()],
) -> schemas.ItemPage:
    """All items, a page at a time."""
    shown, total = await service.in_thread(service.catalogue.page, page.start, page.count)
    following = page.start + page.count if page.start + page.count < total else None
    return schemas.ItemPage(items=[item(service, one) for one in shown], total=total, next=following)


@router.post("", status_code=201, responses={507: RESPONSES[507]})
async def add_items(
    service: Here,
    files: Annotated[list[UploadFile], File(description="Pictures, sounds, texts, ...")],
    caption: Annotated[str, Form(max_length=2000, description="Of all; else the name, or what a text says.")] = "",
    tags: Annotated[list[str], Form(description="Of all of them.")] = [],  # noqa: B006 - FastAPI copies it
) -> schemas.AddResponse:
    """Adds files. What the answer lists is on disk and found by every search from then on."""
    _writable(service)
    if len(files) > service.settings.limits.upload_files:
        raise HTTPException(413, f"{len(files)} files; at most {service.settings.limits.upload_files} at a time")
    wanted = _tags(tags)
    outcomes = await asyncio.gather(*(_add(service, file, caption, wanted) for file in files), return_exceptions=True)
    added: list[schemas.Item] = []
    refused: list[schemas.Refusal] = []
    for file, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, InputError):
            refused.append(schemas.Refusal(name=(file.filename or "")[:200], problem=outcome.problem))
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            added.append(outcome)
    service.metrics.added.inc(len(added))
    service.metrics.refused.inc(len(refused))
    if not added:
        raise InputError(refused[0].name or "the file", refused[0].problem)
    return schemas.AddResponse(items=added, refused=refused)


@router.get("/{id}", responses={404: RESPONSES[404]})
async def get_item(id: Id, service: Here) -> schemas.Item:
    """An item."""
    return item(service, await _item(service, id))


@router.delete("/{id}", status_code=204, responses={404: RESPONSES[404]})
async def delete_item(id: Id, service: Here) -> None:
    """Removes an item from the library. The file goes too if it was uploaded; other files are left where they are."""
    _writable(service)
    try:
        await asyncio.wrap_future(service.writer.remove(id))
    except UnknownItemError as error:
        raise HTTPException(404, f"no item {id!r}") from error


@router.head("/{id}/media", include_in_schema=False)
@router.get(
    "/{id}/media",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}, "description": "The file, with the type of its contents."},
        206: {"description": "The bytes that Range asked for."},
        304: {"description": "The caller has the file already, by If-None-Match or If-Modified-Since."},
        404: RESPONSES[404],
        410: RESPONSES[410],
        416: RESPONSES[416],
    },
)
async def get_media(id: Id, service: Here, request: Request) -> Response:
    """The file of an item, by ranges if wanted, and not again to who has it."""
    found = await _item(service, id)
    path, status, kind = await service.in_thread(_look, service, found)
    whole = _Media(
        path,
        headers=_MEDIA_HEADERS,
        media_type="application/octet-stream" if kind is None else kind.mime,
        filename=path.name,
        stat_result=status,
        content_disposition_type="attachment" if kind is None or kind.family == "document" else "inline",
    )
    if not StaticFiles().is_not_modified(whole.headers, request.headers):
        return whole
    known = NotModifiedResponse(whole.headers)
    known.headers.update(_MEDIA_HEADERS)  # a browser takes them over: those of the page would lift the sandbox
    return known


@router.head("/{id}/thumbnail", include_in_schema=False)
@router.get(
    "/{id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "A small JPEG."}, 404: RESPONSES[404]},
)
async def get_thumbnail(id: Id, service: Here) -> Response:
    """A small picture of an item; of a sound its waveform."""
    await _item(service, id)
    data = await service.in_thread(service.library.thumbnail, id)
    if data is None:
        raise HTTPException(404, "this item has no thumbnail")
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=300"})


async def _add(service: Service, file: UploadFile, caption: str, tags: Sequence[str]) -> schemas.Item:
    service.writer.admit()
    name = file.filename or "upload"
    path, kind = await service.in_thread(service.uploads.keep, file.file, name)
    try:
        if kind != "text":  # read first where a bad file does no harm
            await asyncio.wrap_future(service.decoders.submit(kind, path))
        words = " ".join(caption.split())
        if not words and kind != "text":  # a text says itself what it is
            words = await service.in_thread(_usual_caption, service, path, name)
        adding = service.writer.add(path, words, tags)
    except BaseException:
        service.uploads.release(path, indexed=False)
        raise
    # When the writer is done with it, which may be after its client has gone.
    adding.add_done_callback(lambda done: service.uploads.release(path, not done.cancelled() and not done.exception()))
    added = await asyncio.wrap_future(adding)
    return item(service, await _item(service, added))


async def content_of(service: Service, id: str) -> tuple[Any, FilePath]:
    """An item and its file, which is still the one that was indexed. `HTTPException` where it is not."""
    found = await _item(service, id)
    path, _, _ = await service.in_thread(_look, service, found)
    return found, path


async def _item(service: Service, id: str) -> Any:
    try:
        return await service.in_thread(service.library.item, id)
    except UnknownItemError as error:
        raise HTTPException(404, f"no item {id!r}") from error


def _look(service: Service, found: Any) -> tuple[FilePath, os.stat_result, Any]:
    """The file of an item, if it is still the one that was indexed."""
    try:
        path = service.library.content(found.id)
        status = os.stat(path)
        kind = type_of_file(path)
    except (OSError, UnknownItemError) as error:
        raise HTTPException(410, "the file of this item is gone; index its folder again") from error
    if (status.st_size, stored_moment(status.st_mtime_ns)) != (found.size, found.mtime):
        raise HTTPException(410, "the file of this item has changed since; index its folder again")
    return path, status, kind


def _writable(service: Service) -> None:
    if service.settings.read_only:
        raise HTTPException(403, "this service is read-only")


def _usual_caption(service: Service, path: FilePath, name: str) -> str:
    """The caption of a file that came without one: what it has already, else the words of its name."""
    known = None if service.uploads.is_fresh(path) else service.library.find(path)
    if known is not None:
        return str(known.caption)
    return " ".join(FilePath(name.replace("\\", "/")).stem.replace("_", " ").replace("-", " ").split())


def _tags(given: Sequence[str]) -> tuple[str, ...]:
    """Tags, also from one field with commas between them."""
    tags = dict.fromkeys(" ".join(tag.split()) for field in given for tag in field.split(","))
    tags.pop("", None)
    if len(tags) > 64 or any(len(tag) > 64 for tag in tags):
        raise InputError("tags", "at most 64 tags of at most 64 characters each are accepted")
    return tuple(tags)
