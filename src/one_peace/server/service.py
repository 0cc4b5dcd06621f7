"""The parts of the running service, put together, and what several routes need of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from fastapi import Depends, Request

from one_peace.errors import InputError
from one_peace.media.sources import open_source
from one_peace.models.ofa.interface import Ofa
from one_peace.models.one_peace.interface import OnePeace
from one_peace.search.file_kinds import has_pictures, kinds_for
from one_peace.search.library import Library
from one_peace.search.queries import QueryError
from one_peace.server import schemas
from one_peace.server.access import Keys
from one_peace.server.catalogue import Catalogue
from one_peace.server.decoders import Decoders
from one_peace.server.encoder import BatchingEncoder, Prepared, combine
from one_peace.server.metrics import Metrics
from one_peace.server.projection import Map
from one_peace.server.settings import Settings
from one_peace.server.uploads import Uploads
from one_peace.server.writer import Writer
from one_peace.server.writing_model import WritingModel

Answer = TypeVar("Answer")


class Service:
    """Everything that answers requests. `close` finishes what was accepted."""

    def __init__(
        self,
        model: OnePeace,
        library: Path,
        settings: Settings,
        model_name: str | None = None,
        ofa: Ofa | None = None,
    ) -> None:
        """`ofa` describes pictures, where it is given."""
        limits = settings.limits
        self.settings = settings
        self.keys = Keys(settings.keys)
        self.metrics = Metrics()
        self.encoder = BatchingEncoder(
            model, max_wait=limits.wait_seconds, seconds=limits.request_seconds, observe=self.metrics.observe_batch
        )
        self.library = Library(library, self.encoder, model_name)
        self.decoders = Decoders(model.processors, limits, settings.decoders)
        self.writing = None if ofa is None else WritingModel(ofa)
        self.uploads = Uploads(self.library.path, kinds_for(model.modalities))
        if not settings.read_only:
            self.uploads.prepare()
        self.writer = Writer(self.library, self.uploads)
        self.catalogue = Catalogue(self.library, lambda: self.writer.commits)
        self.map = Map(self.library, lambda: (self.writer.commits, self.catalogue.statistics()))
        self.metrics.watch(self.encoder.batcher.waiting, self.catalogue.statistics)
        self._threads = anyio.CapacityLimiter(limits.in_flight)

    def warm_up(self) -> None:
        """Returns when the first request would be answered as fast as later ones."""
        if "text" in self.encoder.modalities:
            for _ in range(3):  # so that the batcher knows how long texts take
                self.encoder.encode_modality("text", ["a first text"])
        self.decoders.wait()

    @property
    def model_name(self) -> str:
        """What the model is called."""
        return str(self.encoder.config.name)

    async def in_thread(self, work: Callable[..., Answer], *arguments: Any) -> Answer:
        """What `work` returns, run where it may wait."""
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads, abandon_on_cancel=True)

    async def prepare(self, inputs: Sequence[tuple[str, str | bytes]]) -> list[str | Prepared]:
        """Inputs as (modality, text, data: URL or bytes), decoded but for texts; side by side.

        Raises:
            InputError: one cannot be used, over a limit, or an URL of another kind.
            OverloadedError: the service has too much to do.
        """
        self.encoder.batcher.admit()
        limits = self.settings.limits
        if len(inputs) > limits.inputs:
            raise InputError("the request", f"has {len(inputs)} inputs; at most {limits.inputs} are accepted")
        given: list[str | bytes] = []
        for number, (modality, source) in enumerate(inputs, start=1):
            if modality not in self.encoder.modalities:
                known = ", ".join(self.encoder.modalities)
                raise InputError(f"input {number}", f"{modality!r} is no modality of this model; it has {known}")
            if modality == "text":
                given.append(_text(source, number, limits.text_characters))
            else:
                given.append(source if isinstance(source, bytes) else _data(source, number, limits.request_bytes))
        pairs = zip(inputs, given, strict=True)
        return await asyncio.gather(*(self._decoded(name, source, i) for i, ((name, _), source) in enumerate(pairs)))

    async def _decoded(self, modality: str, source: str | bytes, index: int) -> str | Prepared:
        if isinstance(source, str):
            return source
        try:
            return await asyncio.wrap_future(self.decoders.submit(modality, source))
        except InputError as error:
            raise InputError(f"input {index + 1}", error.problem) from error

    async def embed(self, inputs: Sequence[tuple[str, str | bytes]]) -> tuple[np.ndarray, int]:
        """Embeddings of inputs as for `prepare`, (n, dim) float32 of unit length, and how many tokens they had."""
        sources = await self.prepare(inputs)
        counts, waiting, tokens = [], [], 0
        for (modality, _), source in zip(inputs, sources, strict=True):
            views = self.encoder.views(modality, source)
            counts.append(len(views))
            tokens += sum(self.encoder.model.processors[modality].length(view) for view in views)
            waiting += [asyncio.wrap_future(one) for one in self.encoder.batcher.submit(modality, views)]
        rows = iter(await asyncio.gather(*waiting))  # of a request that is cut off, all are taken off the queue
        return np.stack([combine([next(rows) for _ in range(count)]) for count in counts]), tokens

    def describe(self, found: Any) -> dict[str, Any]:
        """The fields of `schemas.Item` for an item of the library or an answer of a search."""
        path = Path(found.path)
        return {
            "id": found.id,
            "modality": found.modality,
            "name": path.name,
            "folder": self.folder_of(path),
            "caption": found.caption,
            "tags": list(found.tags),
            "duration": found.duration,
            "size": found.size,
            "changed": datetime.fromtimestamp(found.mtime / 1e9, UTC),
            "media": f"/v1/items/{found.id}/media",
            "thumbnail": f"/v1/items/{found.id}/thumbnail" if has_pictures(found.modality) else None,
        }

    def folder_of(self, path: Path) -> str:
        """The folder of a file as clients are told it: seen from the folder that holds the library, if below it.

        That of uploaded files lies in the library's own, where nothing is indexed; so no other has its name.
        """
        folder = self.uploads.folder if self.uploads.holds(path) else path.parent
        base = self.library.path.parent
        return str(folder.relative_to(base)) if folder.is_relative_to(base) else str(folder)

    def path_of(self, folder: str) -> str:
        """The inverse of `folder_of`. Links are left as they are, as in the paths that the library keeps.

        Raises:
            QueryError: a relative one that leads out of the folder that holds the library.
        """
        base = self.library.path.parent
        place = os.path.normpath(base / folder)
        if not os.path.isabs(folder) and not Path(place).is_relative_to(base):
            raise QueryError("folder", f"{folder[:100]!r} leads out of the library's; give one as items have it")
        return place

    def close(self) -> None:
        """Finishes what was accepted."""
        self.decoders.close()
        self.writer.close()
        self.encoder.close()
        if self.writing is not None:
            self.writing.close()
        self.library.close()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]
"""The service, as a parameter of a route."""


def item(service: Service, found: Any) -> schemas.Item:
    """An item of the library as clients see it."""
    return schemas.Item(**service.describe(found))


def _text(source: str | bytes, number: int, longest: int) -> str:
    if isinstance(source, bytes):
        try:
            source = source.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"input {number}", "the text is not UTF-8") from error
    if not source.strip():
        raise InputError(f"input {number}", "the text is empty")
    if len(source) > longest:
        raise InputError(f"input {number}", f"has {len(source)} characters; at most {longest} are accepted")
    return source


def _data(url: str, number: int, most: int) -> bytes:
    """The contents of a data: URL. Nothing else is opened: no client makes this server read a file or fetch a page."""
    if url[:5].lower() != "data:":
        raise InputError(
            f"input {number}", "is no data: URL; send the contents as data:TYPE;base64,..., nothing is fetched"
        )
    try:
        with open_source(url, max_bytes=most) as stream:
            return stream.read()
    except InputError as error:
        raise InputError(f"input {number}", error.problem) from error
