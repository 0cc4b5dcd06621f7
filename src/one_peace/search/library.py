"""A library: a folder on disk that knows pictures, sounds and texts by their embeddings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.search.engines import engine_here, open_store
from one_peace.search.indexing import Encoder, Indexing, IndexReport, Track
from one_peace.search.kinds import KINDS
from one_peace.search.lock import writer_lock
from one_peace.search.manifest import (
    LibraryError,
    Manifest,
    read_manifest,
    read_rejected,
    write_manifest,
    write_rejected,
)
from one_peace.search.records import Entry, Result
from one_peace.search.store import VectorStore
from one_peace.search.walk import Walk, look_at_all, walk

DEFAULT_MODEL = "one-peace-nano"


class Library:
    """Embeddings of files of any number of folders, kept in the folder `path`, which `index` and `add` make.

    `model` is an encoder, or what to load one by (a name or path). Without it an existing library uses the
    model that it was made with, a new one `one-peace-nano`. `model_name` is what a new library notes down to
    load an encoder by that was handed over; by default its configuration's name. `device` is where an encoder that
    is loaded by name runs.

    One process at a time may write; any number may search.

    Raises:
        LibraryError: the library was made by a model with another fingerprint, or is damaged.
        MissingExtraError: the library is kept in LanceDB and the extra `search` is not installed. Without it
            new libraries are one SQLite file, for up to 200,000 files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Encoder | str | None = None,
        model_name: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        manifest = read_manifest(self.path)
        if model is None:
            model = manifest.model if manifest else DEFAULT_MODEL
        if isinstance(model, str):
            self._model_name, self.model = model_name or model, _load(model, device)
        else:
            self._model_name = model_name or str(getattr(getattr(model, "config", None), "name", "unnamed"))
            self.model = model
        self._store = self._open(manifest) if manifest else None

    def __len__(self) -> int:
        """Number of files that can be found."""
        return self._store.count() if self._store else 0

    def entries(self) -> list[Entry]:
        """All files that can be found, ordered by path."""
        return sorted(self._store.entries() if self._store else [], key=lambda entry: entry.path)

    def index(self, folder: str | os.PathLike[str], *, progress: bool | None = None) -> IndexReport:
        """Takes in pictures, sounds and texts below `folder`; files known from before are updated or removed.

        Only what is new or has changed (by size and time of change, then by contents) is encoded; renamed
        files are recognised by their contents. Work is committed as it goes: after an interruption the next
        call goes on from there. Files that cannot be used are named in the report, and tried again when they
        have changed.
        `progress` defaults to whether stderr is a terminal.

        Raises:
            LibraryBusyError: somebody else is writing to this library.
            LibraryError: `folder` is not a folder.
        """
        root = Path(folder).expanduser().absolute()
        if not root.is_dir():
            raise LibraryError(f"{root} is not a folder that can be indexed")
        self.path.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.path / "writer.lock"):
            return self._update(walk(root, self._modalities, self.path), root, progress)

    def add(self, files: Iterable[tuple[str | os.PathLike[str], str]], *, progress: bool | None = None) -> IndexReport:
        """Takes in single files, as (path, caption), and removes nothing; otherwise as `index`.

        An empty caption stands for the one that `index` would find.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.path / "writer.lock"):
            return self._update(look_at_all(files, self._modalities), None, progress)

    def search(
        self,
        *,
        text: Any = None,
        image: Any = None,
        audio: Any = None,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        modality: str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> list[Result]:
        """The k files nearest to a query of any mix of texts, pictures and sounds, each one input or a list.

        The query is the unit-length mean of the inputs' unit-length features, with `weights` by modality
        (default 1). `modality` and `folder` restrict the answers.

        Raises:
            ValueError: no query, k < 1, or an unknown modality.
            InputError: an input that cannot be used.
        """
        given = {"text": text, "image": image, "audio": audio}
        inputs = {name: value for name, value in given.items() if value is not None and value != []}
        if not inputs:
            raise ValueError("nothing to search by; give a text, a picture or a sound")
        query = self.model.encode(weights=weights, **inputs)
        return self.nearest(np.asarray(query, np.float32), k=k, modality=modality, folder=folder)

    def nearest(
        self,
        query: np.ndarray,
        *,
        k: int = 10,
        modality: str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> list[Result]:
        """As `search`, by an embedding: (dim,) or (1, dim) float32 of unit length."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if modality is not None and modality not in KINDS:
            raise ValueError(f"no modality {modality!r}; a library holds {', '.join(KINDS)}")
        if self._store is None:
            raise LibraryError(f"{self.path} holds no library yet; index a folder first")
        prefix = None if folder is None else os.path.join(Path(folder).expanduser().absolute(), "")
        hits = self._store.search(np.atleast_2d(query), k, modality=modality, prefix=prefix)[0]
        rows = self._store.rows([hit.id for hit in hits])
        # A row may have been removed by another process since.
        found = [(hit.score, rows[hit.id]) for hit in hits if hit.id in rows]
        return [
            Result(
                rank=rank,
                score=score,
                path=Path(row.entry.path),
                modality=row.entry.modality,
                caption=row.entry.caption,
                duration=row.entry.duration,
                thumbnail=row.thumbnail,
            )
            for rank, (score, row) in enumerate(found, start=1)
        ]

    @property
    def _modalities(self) -> frozenset[str]:
        return frozenset(self.model.modalities) & frozenset(KINDS)

    def _update(self, found: Walk, folder: Path | None, progress: bool | None) -> IndexReport:
        rejected = read_rejected(self.path)
        indexing = Indexing(self._writable(), self.model, rejected, lambda rows: write_rejected(self.path, rows))
        return indexing.run(found, folder, _tracker(progress))

    def _writable(self) -> VectorStore:
        if self._store is None:
            manifest = read_manifest(self.path)  # somebody else may have made it since
            if manifest is None:
                manifest = Manifest(self._model_name, self.model.fingerprint, self.model.dim, engine_here())
                self._store = self._open(manifest)
                write_manifest(self.path, manifest)
            else:
                self._store = self._open(manifest)
        return self._store

    def _open(self, manifest: Manifest) -> VectorStore:
        if (manifest.fingerprint, manifest.dim) != (self.model.fingerprint, self.model.dim):
            raise LibraryError(
                f"{self.path} was made with another model, {manifest.model} ({manifest.fingerprint}), than "
                f"{self._model_name} ({self.model.fingerprint}); vectors of two models cannot be compared. "
                "Open it with its own model, or remove it and index again"
            )
        return open_store(manifest.engine, self.path, manifest.dim)


def _load(name: str, device: str) -> Encoder:
    import one_peace

    model: Encoder = one_peace.from_pretrained(name, device=device)
    return model


def _tracker(progress: bool | None) -> Track:
    if not (sys.stderr.isatty() if progress is None else progress):
        return lambda steps, total: steps
    from rich.console import Console
    from rich.progress import track

    return lambda steps, total: track(
        steps, description="indexing", total=total, console=Console(stderr=True), disable=not total
    )
