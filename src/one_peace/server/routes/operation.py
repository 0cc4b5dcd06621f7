"""What operators and the page ask of the service itself."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter, HTTPException, Request, Response

import one_peace
from one_peace.server.access import COOKIE, token_of
from one_peace.server.schemas import About, Health, SessionRequest
from one_peace.server.service import Here

router = APIRouter(tags=["operation"])


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> Health:
    """Whether requests are answered. Needs no key."""
    return Health(status="ok")


@router.get("/v1/about")
async def about(service: Here) -> About:
    """The service, its model and its library."""
    items = await service.in_thread(service.catalogue.statistics)
    return About(
        version=one_peace.__version__,
        model=service.model_name,
        fingerprint=service.encoder.fingerprint,
        dim=service.encoder.dim,
        modalities=list(service.encoder.modalities),
        items=items,
        writable=not service.settings.read_only,
        describes=None if service.writing is None else service.writing.name,
        limits={name: float(value) for name, value in dataclasses.asdict(service.settings.limits).items()},
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus's text format."}},
)
async def metrics(service: Here) -> Response:
    """Numbers for Prometheus."""
    text = await service.in_thread(service.metrics.text)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/v1/session", status_code=204)
async def open_session(body: SessionRequest, request: Request, response: Response, service: Here) -> None:
    """A cookie for an API key, for the page: pictures and sounds in a page cannot send a key."""
    if service.keys and not service.keys.accepts(body.key):
        raise HTTPException(401, "this is no API key of the service")
    response.set_cookie(
        COOKIE,
        service.keys.open_session(),
        max_age=12 * 3600,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.delete("/v1/session", status_code=204)
async def close_session(request: Request, response: Response, service: Here) -> None:
    """Ends the session of the cookie."""
    service.keys.close_session(token_of(request.headers))
    response.delete_cookie(COOKIE)
