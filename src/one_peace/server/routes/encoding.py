"""Encoding: any modality, as the API's own operations."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Request

from one_peace.errors import InputError
from one_peace.server.schemas import EncodeRequest, EncodeResponse
from one_peace.server.service import Here, Service

router = APIRouter(tags=["encode"])


@router.post("/v1/encode")
async def encode(body: EncodeRequest, service: Here) -> EncodeResponse:
    """Embeds inputs of any modalities."""
    vectors, _ = await service.embed([(one.modality, one.source) for one in body.inputs])
    return _response(service, vectors)


@router.post(
    "/v1/encode/{modality}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def encode_file(modality: Annotated[str, Path(max_length=64)], request: Request, service: Here) -> EncodeResponse:
    """Embeds one input; the body is the file itself: `curl --data-binary @cow.png .../v1/encode/image`."""
    data = await request.body()
    if not data:
        raise InputError("the body", "is empty; it has to be the file")
    vectors, _ = await service.embed([(modality, data)])
    return _response(service, vectors)


def _response(service: Service, vectors: np.ndarray) -> EncodeResponse:
    return EncodeResponse(
        model=service.model_name,
        fingerprint=service.encoder.fingerprint,
        dim=service.encoder.dim,
        embeddings=numbers(vectors),
    )


def numbers(vectors: np.ndarray) -> list[list[float]]:
    """Rows as lists, with the digits that float32 has."""
    rows: list[list[float]] = np.round(vectors.astype(np.float64), 8).tolist()
    return rows
