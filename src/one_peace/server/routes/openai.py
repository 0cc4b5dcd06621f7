"""Embeddings the way OpenAI's clients ask for them."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from fastapi import APIRouter, HTTPException

from one_peace.errors import InputError
from one_peace.server.errors import RESPONSES
from one_peace.server.openai_schemas import (
    AudioPart,
    ContentPart,
    ImagePart,
    OpenAIEmbedding,
    OpenAIModel,
    OpenAIModels,
    OpenAIRequest,
    OpenAIResponse,
    OpenAIUsage,
)
from one_peace.server.routes.encoding import numbers
from one_peace.server.service import Here

router = APIRouter(tags=["openai"])

_DATA_URL = re.compile(r"data:(image|audio|video)/[\w.+-]+(;[\w.=+-]+)*,", re.IGNORECASE)


@router.post("/v1/embeddings", responses={404: RESPONSES[404]})
async def embeddings(body: OpenAIRequest, service: Here) -> OpenAIResponse:
    """OpenAI's call for embeddings; pictures and sounds are data: URLs in place of texts, or content parts."""
    if body.model != service.model_name:
        raise HTTPException(404, f"the model {body.model[:100]!r} is not served here; {service.model_name!r} is")
    if body.dimensions not in (None, service.encoder.dim):
        raise InputError("dimensions", f"embeddings of this model have {service.encoder.dim}; they cannot be shortened")
    given = body.input if isinstance(body.input, list) else [body.input]
    if not given:
        raise InputError("input", "is an empty list")
    vectors, tokens = await service.embed([_input(one) for one in given])
    if body.encoding_format == "base64":
        rows: Sequence[str | list[float]] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        rows = numbers(vectors)
    return OpenAIResponse(
        data=[OpenAIEmbedding(index=i, embedding=row) for i, row in enumerate(rows)],
        model=service.model_name,
        usage=OpenAIUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


@router.get("/v1/models")
async def models(service: Here) -> OpenAIModels:
    """The model that is served."""
    return OpenAIModels(data=[OpenAIModel(id=service.model_name, created=0, owned_by="one-peace")])


def _input(given: str | ContentPart) -> tuple[str, str | bytes]:
    """(modality, text or data: URL or bytes)"""
    if isinstance(given, str):
        found = _DATA_URL.match(given)
        return (found[1].lower(), given) if found else ("text", given)
    if isinstance(given, ImagePart):
        return "image", given.image_url.url
    if isinstance(given, AudioPart):
        return "audio", f"data:;base64,{given.input_audio.data}"
    return "text", given.text
