"""A library: pictures, sounds, videos and texts that are known, and found, by their embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from one_peace.progress_bar import bar
from one_peace.search.changing import change_entries
from one_peace.search.encoding import Encoder, load_encoder
from one_peace.search.filters import Condition, Filters
from one_peace.search.indexing import Indexing, IndexReport
from one_peace.search.library_folder import LibraryFolder, address_of, full_address, kept_address
from one_peace.search.library_items import LibraryItems
from one_peace.search.manifest import LibraryError, lasting_name, read_manifest, read_rejected, write_rejected
from one_peace.search.queries import MOST_ANSWERS, Query, QueryError, check_whole
from one_peace.search.records import Result, Space
from one_peace.search.searching import Searcher
from one_peace.search.stores.base import VectorStore
from one_peace.search.stores.engines import find_space
from one_peace.search.walk import Walk, absolute, beside, look_at_all, unique, walk

DEFAULT_MODEL = "one-peace-nano"


class Library(LibraryItems):
    """Embeddings of files of any number of folders, kept in the folder `path`, which `index` and `add` make.

    `model` is an encoder, or what to load one by (a name or path). Without it an existing library uses the
    model that it was made with, a new one `one-peace-nano`. `model_name` is what a new library notes down to
    load an encoder by that was handed over; by default its configuration's name. `device` is where an encoder that
    is loaded by name runs. `store` is where the vectors of a new library are kept, if not in `path`: the address
    of an object store or of a database (`stores/engines.py`), which several libraries on several machines may share.

    One process at a time may write; any number may search, and any number of threads of each.

    Raises:
        LibraryError: the library was made by a model with another fingerprint, or is damaged.
        MissingExtraError: the library is kept in an engine that is not installed. Without the extra `search` new
            libraries are one SQLite file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Encoder | str | None = None,
        model_name: str | None = None,
        device: str = "cpu",
        store: str | None = None,
    ) -> None:
        place = absolute(path)
        manifest = read_manifest(place)
        if manifest is not None and store is not None:
            kept, asked = address_of(place, manifest), full_address(place, kept_address(place, store))
            if kept != asked:
                raise LibraryError(f"{place} keeps its vectors in {kept}, not in {asked}")
        if model is None:
            shared = find_space(store) if manifest is None and store is not None else None
            model = manifest.model if manifest else shared.model if shared else DEFAULT_MODEL
        if isinstance(model, str):
            model_name, model = model_name or model, load_encoder(model, device)
        self._model_name = lasting_name(model_name or str(getattr(getattr(model, "config", None), "name", "unnamed")))
        space = Space(self._model_name, model.fingerprint, model.dim)
        super().__init__(model, LibraryFolder(place, space, store or ""))

    @property
    def space(self) -> Space:
        """Whose vectors these are."""
        return Space(self._model_name, self.model.fingerprint, self.model.dim)

    def index(self, folder: str | os.PathLike[str], *, progress: bool | None = None) -> IndexReport:
        """Takes in the files below `folder` that the model can read; those known from before are updated or removed.

        Only what is new or has changed (by size and time of change, then by contents) is encoded; renamed
        files are recognised by their contents. Work is committed as it goes: after an interruption the next
        call goes on from there. Files that cannot be used are named in the report, and tried again when they
        have changed.
        `progress` defaults to whether stderr is a terminal.

        Raises:
            FolderBusyError: somebody else is writing to this library.
            LibraryError: `folder` is not a folder, or the library's own.
        """
        root = absolute(folder)
        if not root.is_dir():
            raise LibraryError(f"{root} is not a folder that can be indexed")
        if root.resolve() == self.path.resolve():
            raise LibraryError(f"{root} is the library itself, whose files are left out; keep it elsewhere or below")
        with self._folder.writing() as store:
            return self._update(store, walk(root, self._kinds, self.path), root, progress)

    def add(
        self, files: Iterable[Sequence[Any]], *, progress: bool | None = None, ids: Mapping[str, str] | None = None
    ) -> IndexReport:
        """Takes in single files, as (path, caption) or (path, caption, tags), and removes nothing; else as `index`.

        An empty caption stands for the one that `index` would find beside the file, and where there is none for the
        one that the item has; so do empty tags. `ids`, by absolute path, are for new files that had them elsewhere.

        Raises:
            LibraryError: another file has one of these ids.
        """
        with self._folder.writing() as store:
            wanted = {id: path for path, id in (ids or {}).items()}
            for row in store.entries((Condition("item", "in", tuple(wanted)),)) if wanted else ():
                if row.path != wanted[row.item]:
                    raise LibraryError(f"{wanted[row.item]} cannot have the id {row.item}, which {row.path} has")
            return self._update(store, look_at_all(files, self._kinds), None, progress, ids)

    def remove(self, ids: Iterable[str]) -> int:
        """Takes items out of the library, not off the disk; returns how many there were. Unknown ids are ignored.

        Those that lie in a folder that is indexed again come back.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids are a list of them, not {ids!r}")
        wanted = tuple(dict.fromkeys(ids))
        if self._folder.store is None or not wanted:
            return 0
        with self._folder.writing() as store:
            rows = store.entries((Condition("item", "in", wanted),))
            store.delete([row.id for row in rows])
            self._folder.calibration.renew(store, {})
            return len({row.item for row in rows})

    def add_tags(self, tags: Mapping[str, Iterable[str]]) -> int:
        """Adds to the tags of items, by id -> how many items got any; unknown ids are ignored.

        They stay until a file's own (`walk.beside`) replace them. A file that has its own already is left alone: the
        next `index` would take others away again.
        """
        if letters := [item for item, given in tags.items() if isinstance(given, str)]:
            raise TypeError(f"tags of {letters[0]!r} are a list of words, not {tags[letters[0]]!r}")
        wanted = {item: words for item, given in tags.items() if (words := unique(given))}
        if self._folder.store is None or not wanted:
            return 0
        with self._folder.writing() as store:
            rows = store.entries((Condition("item", "in", tuple(wanted)),))
            own = {path for path in {row.path for row in rows} if beside(Path(path))[1] is not None}
            rows = [row for row in rows if row.modality == "text" or row.path not in own]
            change_entries(store, {row.id: {"tags": unique((*row.tags, *wanted[row.item]))} for row in rows})
            return len({row.item for row in rows})

    @overload
    def search(self, query: Query) -> list[Result]: ...
    @overload
    def search(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        modality: str | Sequence[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        filters: Filters | None = None,
        calibrate: bool = True,
        rerank: int = 0,
        **inputs: Any,
    ) -> list[Result]: ...
    def search(self, query: Query | None = None, **asked: Any) -> list[Result]:
        """The items nearest to a query, or to a mix of texts, pictures, sounds, ..., each one input or a list of them.

        `library.search(text="a dog", audio="bark.wav", k=3)`: the unit-length mean of the inputs' unit-length
        features, with `weights` by modality (default 1). `item="..."`, an id, finds more like this. `modality` and
        `folder` restrict the answers, `filters` do by anything that is known of them. What else a `Query` can say
        takes a `Query`, and then nothing beside it.

        Raises:
            TypeError: a `Query` and anything else beside it, or what is none.
            QueryError: no query, a bad weight, k < 1, an unknown modality or item, parts that cancel out, a folder that
                nothing here is below.
            InputError: an input that cannot be used.
            LibraryError: there is no library here yet.
        """
        if query is not None and asked:
            raise TypeError(f"a Query holds everything that is asked; put {', '.join(asked)} into it")
        if query is not None and not isinstance(query, Query):
            raise TypeError(f"a query is a Query, or inputs by name such as text={query!r}")
        query = query or self._query(**asked)
        query.check(self.model.modalities)
        query = replace(query, filters=self._narrowed(query.filters))
        results = self._searcher.answer(query)
        if not results:
            self._check_folder(query.filters)
        return results

    def nearest(
        self,
        vector: np.ndarray,
        *,
        k: int = 10,
        modality: str | Sequence[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        filters: Filters | None = None,
        calibrate: bool = True,
    ) -> list[Result]:
        """As `search`, by an embedding: (dim,) or (1, dim) float32 of unit length."""
        narrowed = self._narrowed((filters or Filters()).within(modality, folder))
        check_whole("k", k, 1, MOST_ANSWERS)
        direction = np.asarray(vector, np.float32).reshape(-1)
        if direction.shape != (self.model.dim,) or not np.isfinite(direction).all():
            raise QueryError("vector", f"expected {self.model.dim} finite numbers, got shape {np.shape(vector)}")
        results = self._searcher.nearest(direction, k, narrowed, calibrate)
        if not results:
            self._check_folder(narrowed)
        return results

    def close(self) -> None:
        """Waits for what is written in the background, and frees memory. The library stays usable."""
        store = self._folder.store
        if store is not None:
            store.close()

    @property
    def _searcher(self) -> Searcher:
        return Searcher(self.model, self.store, self._folder.calibration, self.path)

    @staticmethod
    def _query(
        *,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        modality: str | Sequence[str] | None = None,
        folder: str | os.PathLike[str] | None = None,
        filters: Filters | None = None,
        calibrate: bool = True,
        rerank: int = 0,
        **inputs: Any,
    ) -> Query:
        within = (filters or Filters()).within(modality, folder)
        return Query.of(inputs, weights, k=k, filters=within, calibrate=calibrate, rerank=rerank)

    def _update(
        self,
        store: VectorStore,
        found: Walk,
        folder: Path | None,
        progress: bool | None,
        ids: Mapping[str, str] | None = None,
    ) -> IndexReport:
        indexing = Indexing(
            store,
            self.model,
            self._kinds,
            self.path,
            read_rejected(self.path),
            lambda rows: write_rejected(self.path, rows),
            only=None if folder else list(found.found),
            ids=ids,
        )
        report = indexing.run(found, folder, bar("indexing", progress))
        self._folder.calibration.renew(store, indexing.written)
        return report
