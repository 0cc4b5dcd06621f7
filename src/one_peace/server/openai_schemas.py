"""What goes in and out of the operations that are OpenAI's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from one_peace.server.schemas import Model


class TextPart(Model):
    """A text."""

    type: Literal["text"]
    text: str = Field(min_length=1)


class Url(BaseModel):
    """A data: URL."""

    url: str


class ImagePart(Model):
    """A picture as chat messages have it."""

    type: Literal["image_url"]
    image_url: Url


class AudioData(BaseModel):
    """Base64, without a data: prefix."""

    data: str


class AudioPart(Model):
    """A sound as chat messages have it."""

    type: Literal["input_audio"]
    input_audio: AudioData


ContentPart = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class OpenAIRequest(BaseModel):
    """OpenAI's request for embeddings. A string that is a data: URL of a picture or sound is that picture or sound."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    input: str | list[str | ContentPart] = Field(description="One input, or a list of them.")
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="That of the model; embeddings cannot be shortened.")
    user: str | None = None


class OpenAIEmbedding(Model):
    """One row; `embedding` is numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(Model):
    """Tokens of the model: words' pieces, patches of pictures, frames of sounds."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(Model):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(Model):
    """A model that can be named in requests."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class OpenAIModels(Model):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]
