"""What goes in and out of the HTTP API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MODALITY = "A modality of the model: text, image, audio, ..."
SOURCE = "A text as it is; anything else as a data: URL (data:image/png;base64,...). Other URLs are not fetched."

_INT64 = 2**63 - 1
Name = Annotated[str, Field(min_length=1, max_length=64)]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
Id = Annotated[str, Field(min_length=1, max_length=128)]


class Model(BaseModel):
    """An unknown field is an error: most likely it is misspelt."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ErrorDetail(Model):
    """What was wrong and what to do; `param` names the field or input, `code` is for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Model):
    """The body of every answer that is an error."""

    error: ErrorDetail


class Input(Model):
    """One input to encode."""

    modality: Name = Field(description=MODALITY)
    source: str = Field(description=SOURCE, min_length=1)


class EncodeRequest(Model):
    """Inputs of any modalities, in any order."""

    inputs: list[Input] = Field(min_length=1)


class EncodeResponse(Model):
    """`embeddings` has a row for each input: unit length, `dim` numbers."""

    model: str
    fingerprint: str = Field(description="Embeddings of models with the same one can be compared.")
    dim: int
    embeddings: list[list[float]]


class Part(Model):
    """One input of a query: an input as for encoding, or with modality "item" the id of an item ("more like this")."""

    modality: Name = Field(description=MODALITY + ' Or "item".')
    source: str = Field(description=SOURCE + " With modality item: its id.", min_length=1)
    weight: float = Field(default=1.0, ge=-100, le=100, description="Negative: minus this.")


class Filters(Model):
    """What answers are restricted to; all conditions have to hold."""

    modality: list[Name] = Field(default=[], max_length=16, description="One of these.")
    tag: list[Name] = Field(default=[], max_length=64, description="One of these.")
    folder: Path | None = Field(default=None, description="As in items; with its subfolders.")
    caption: str | None = Field(default=None, min_length=1, max_length=200, description="Holds these letters.")
    min_size: int | None = Field(default=None, ge=0, le=_INT64, description="Bytes.")
    max_size: int | None = Field(default=None, ge=0, le=_INT64, description="Bytes.")
    min_duration: float | None = Field(default=None, ge=0, description="Seconds.")
    max_duration: float | None = Field(default=None, ge=0, description="Seconds.")
    after: datetime | None = Field(default=None, description="Last change of the file; without a zone: UTC.")
    before: datetime | None = Field(default=None, description="Last change of the file; without a zone: UTC.")


class SearchRequest(Model):
    """A query: its parts make one direction in the space of the embeddings."""

    parts: list[Part] = Field(min_length=1)
    k: int = Field(default=20, ge=1, description="How many answers.")
    filters: Filters = Filters()
    calibrate: bool = Field(default=True, description="Rank answers of several modalities fairly against each other.")
    rerank: int = Field(default=0, ge=0, le=100, description="The first so many are ordered again by joint encoding.")


class Item(Model):
    """A file of the library. `media` and `thumbnail` are addresses on this server."""

    id: str
    modality: str
    name: str
    folder: str
    caption: str
    tags: list[str]
    duration: float | None = Field(description="Seconds, of sounds and videos.")
    size: int = Field(description="Bytes.")
    changed: datetime
    media: str
    thumbnail: str | None


class Found(Item):
    """An answer."""

    rank: int
    score: float = Field(description="Cosine similarity of its best part with the whole query.")
    standing: float | None = Field(description="How far it stands out in its modality, in standard deviations.")
    why: list[float] = Field(description="Cosine similarity with each part of the query.")
    label: str = Field(description="The part of the file that matched: a frame, the sound track, a passage.")
    start: float | None = Field(description="Where in the file that part begins, in seconds.")


class SearchResponse(Model):
    """Answers, best first."""

    results: list[Found]
    took: float = Field(description="Seconds.")


class Description(Model):
    """What a picture shows."""

    model: str
    caption: str


class LocateRequest(Model):
    """What to look for in a picture."""

    phrase: str = Field(min_length=1, max_length=500, pattern=r"\S")


class Location(Model):
    """Where in a picture the thing is that the phrase means."""

    model: str
    phrase: str
    box: list[float] = Field(description="Left, top, right, bottom in pixels of the picture.")


class PageRequest(Model):
    """Which items are listed."""

    start: int = Field(default=0, ge=0, le=2**31, description="`next` of the page before.")
    count: int = Field(default=100, ge=1, le=1000, description="Items at most.")


class ItemPage(Model):
    """Some items, ordered by path; `next` continues the listing."""

    items: list[Item]
    total: int
    next: int | None


class Refusal(Model):
    """A file of an upload that was not taken in, and why."""

    name: str
    problem: str


class AddResponse(Model):
    """What became of an upload. The items are on disk: they are found from now on, also after a crash."""

    items: list[Item]
    refused: list[Refusal]


class MapResponse(Model):
    """The library in two dimensions: item i is at (x[i], y[i]), both in [-1, 1]."""

    modalities: list[str]
    id: list[str]
    modality: list[int] = Field(description="Index into `modalities`.")
    x: list[float]
    y: list[float]
    explained: list[float] = Field(description="Share of the variance that each axis shows.")


class Health(Model):
    """`ok` when requests are answered."""

    status: Literal["ok"]


class About(Model):
    """The service, its model and its library."""

    version: str
    model: str
    fingerprint: str
    dim: int
    modalities: list[str]
    items: dict[str, int] = Field(description="By modality.")
    writable: bool
    describes: str | None = Field(description="The model that describes pictures, if there is one.")
    limits: dict[str, float]


class SessionRequest(Model):
    """An API key, for a cookie that stands for it."""

    key: str = Field(min_length=1, max_length=1024)
