"""The distributed store: a collection on a Milvus server or cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from one_peace.errors import MissingExtraError
from one_peace.search.filters import Filter, passes
from one_peace.search.records import COLUMNS, Entry, Hit, Record, Space
from one_peace.search.stores.background import Background
from one_peace.search.stores.base import (
    StoreError,
    check_queries,
    check_records,
    check_space,
    space_from_json,
    space_to_json,
)
from one_peace.search.stores.milvus_rows import (
    ROWS_PER_REQUEST,
    add_fields,
    among,
    entry_of,
    expression,
    record_of,
    row_of,
)

_ADDRESS = re.compile(r"milvus(\+https)?://(?:([^@/]+)@)?([^@/:]+)(:\d+)?/([A-Za-z_][A-Za-z0-9_]*)")
_MOST = 16_384  # answers that the server gives to a query
_ROWS_PER_READ = 4000  # at most; every page costs the server 0.2 s
_BEAM = 128  # of the HNSW search, at least
_NUMBERS_PER_REPLY = 2**21  # of vectors, so that a reply stays far below what gRPC takes

P = ParamSpec("P")
T = TypeVar("T")


def is_address(address: str) -> bool:
    """Whether this is an address of Milvus."""
    return address.startswith(("milvus://", "milvus+https://"))


def _explained(method: Callable[P, T]) -> Callable[P, T]:
    """Failures of the server as `StoreError`."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        from pymilvus.exceptions import MilvusException

        try:
            return method(*args, **kwargs)
        except MilvusException as error:
            raise StoreError(f"Milvus: {error.message}") from error

    return wrapped


class _Place(NamedTuple):
    """What an address says."""

    uri: str
    token: str
    collection: str


class MilvusStore:
    """A `VectorStore` in the collection of `address`, milvus://[user:password@]host:port/collection; made if needed.

    `milvus+https://` is the same over TLS. The server indexes (HNSW over float32) what has been written, scans the rest
    and merges both; a few of the true answers may be missing. `contains` is not among its conditions: rows are read
    and looked at here, which takes time in proportion to their number. So are all that pass for more than 16,384
    answers, and where the server finds fewer than were asked for and there are: what was just written it looks at in
    part.
    Searches and `rows` know of all writes of this object, and of others' a moment later: to wait until the server is
    sure of those would take 0.2 s each time, against 10 ms.

    Raises:
        MissingExtraError: pymilvus is not installed.
        OtherModelError: the collection holds vectors of another model.
        StoreError: no such address, or the server does not answer.
    """

    def __init__(self, address: str, space: Space) -> None:
        self.space = space
        self._name = _place(address).collection
        self._client = _connect(address)
        found = _space_of(self._client, self._name, address)
        if found is None:
            self._create()
            found = _space_of(self._client, self._name, address) or space
        check_space(found, space, address)
        self._load()
        self._upkeep = Background(self._maintain, address)

    @_explained
    def add(self, records: Sequence[Record]) -> None:
        rows = [row_of(record) for record in check_records(records, self.space.dim)]
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            self._client.upsert(self._name, rows[start : start + ROWS_PER_REQUEST])

    @_explained
    def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), ROWS_PER_REQUEST):
            self._client.delete(self._name, ids=list(ids[start : start + ROWS_PER_REQUEST]))

    @_explained
    def count(self) -> int:
        return int(self._client.query(self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    @_explained
    def entries(self, where: Filter = ()) -> list[Entry]:
        return [entry for rows in self._read(where, [*COLUMNS]) for entry, _ in rows]

    @_explained
    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for condition in among(ids):
            fields = [*COLUMNS, "thumbnail", "vector"]
            for row in self._client.query(self._name, condition, fields, consistency_level="Session"):
                found[row["id"]] = record_of(row)
        return found

    def vectors(self, where: Filter = ()) -> Iterator[tuple[list[Entry], np.ndarray]]:
        for rows in self._read(where, [*COLUMNS, "vector"]):
            yield [entry for entry, _ in rows], np.asarray([row["vector"] for _, row in rows], np.float32)

    @_explained
    def search(self, vectors: np.ndarray, k: int, where: Filter = ()) -> list[list[Hit]]:
        queries = check_queries(vectors, k, self.space.dim)
        if k > _MOST:
            return self._scan(queries, k, where)
        wanted = min(2 * k, _MOST)  # float32 sums tell nearly equal rows apart differently than ours
        found: list[dict[str, float]] = [{} for _ in queries]
        step = max(1, _NUMBERS_PER_REPLY // (wanted * self.space.dim))
        conditions = list(self._conditions(where))
        for condition in conditions:
            for start in range(0, len(queries), step):
                block = queries[start : start + step]
                for i, hits in enumerate(self._ask(block, wanted, condition), start):
                    rows = [hit["entity"]["vector"] for hit in hits]
                    found[i] |= _scores([hit["id"] for hit in hits], rows, queries[i])
        fewest = min(map(len, found), default=k)
        if fewest < k and fewest < sum(map(self._passing, conditions)):
            return self._scan(queries, k, where)
        return [_best(scores, k) for scores in found]

    def finish(self) -> None:
        self._upkeep.start()

    def settle(self) -> None:
        self._upkeep.wait()

    def close(self) -> None:
        self.settle()

    def _ask(self, queries: np.ndarray, limit: int, condition: str) -> Any:
        return self._client.search(
            self._name,
            data=queries.tolist(),
            limit=limit,
            filter=condition,
            output_fields=["vector"],
            consistency_level="Session",
            search_params={"params": {"ef": max(_BEAM, limit)}},
        )

    def _scan(self, queries: np.ndarray, k: int, where: Filter) -> list[list[Hit]]:
        """As `search`, by a look at every row that passes."""
        found: list[list[Hit]] = [[] for _ in queries]
        for entries, vectors in self.vectors(where):
            ids = [entry.id for entry in entries]
            for i, query in enumerate(queries):
                found[i] = _best({hit.id: hit.score for hit in found[i]} | _scores(ids, vectors, query), k)
        return found

    def _passing(self, condition: str) -> int:
        counted = self._client.query(self._name, condition, ["count(*)"], consistency_level="Session")
        return int(counted[0]["count(*)"])

    def _read(self, where: Filter, fields: list[str]) -> Iterator[list[tuple[Entry, dict[str, Any]]]]:
        """Rows that pass, some thousand at a time."""
        condition = expression([one for one in where if one.test != "contains"])
        size = min(_ROWS_PER_READ, max(1, _NUMBERS_PER_REPLY // self.space.dim))
        pages = _explained(self._client.query_iterator)(
            self._name, batch_size=size, filter=condition, output_fields=fields
        )
        try:
            while page := _explained(pages.next)():
                rows = [(entry_of(row), row) for row in page]
                rows = [(entry, row) for entry, row in rows if passes(where, entry)]
                if rows:
                    yield rows
        finally:
            pages.close()

    def _conditions(self, where: Filter) -> Iterator[str]:
        """What to ask the server for, one after the other, to see the rows that pass."""
        if any(condition.test == "contains" for condition in where):
            yield from among([entry.id for entry in self.entries(where)])
        else:
            yield expression(where)

    @_explained
    def _create(self) -> None:
        schema = self._client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=space_to_json(self.space)
        )
        add_fields(schema, self.space.dim)
        index = self._client.prepare_index_params()
        settings = {"M": 16, "efConstruction": 128}
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=settings)
        self._client.create_collection(self._name, schema=schema, index_params=index, consistency_level="Strong")

    @_explained
    def _load(self) -> None:
        self._client.load_collection(self._name)

    @_explained
    def _maintain(self) -> None:
        self._client.flush(self._name)
        self._client.compact(self._name)


def space_at(address: str) -> Space | None:
    """Whose vectors are in the collection of `address`; None if there is none.

    Raises:
        MissingExtraError, StoreError: as `MilvusStore`.
    """
    return _space_of(_connect(address), _place(address).collection, address)


def _place(address: str) -> _Place:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise StoreError(f"{address}: expected milvus://host:port/collection; collections have letters, digits and _")
    secure, token, host, port, collection = match.groups()
    return _Place(f"{'https' if secure else 'http'}://{host}{port or ':19530'}", token or "", collection)


def _connect(address: str) -> Any:
    place = _place(address)
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise MissingExtraError(f"{place.uri} is a Milvus server; speaking to it", "milvus") from error
    try:
        return MilvusClient(uri=place.uri, token=place.token, timeout=10)
    except MilvusException as error:
        raise StoreError(f"{place.uri} does not answer as Milvus: {error.message}") from error


@_explained
def _space_of(client: Any, collection: str, address: str) -> Space | None:
    if not client.has_collection(collection):
        return None
    return space_from_json(client.describe_collection(collection)["description"], address)


def _scores(ids: Sequence[str], vectors: Any, query: np.ndarray) -> dict[str, float]:
    """By id: computed from vectors (n, dim) here, since the server's are sums of float32."""
    rows = np.asarray(vectors, np.float64).reshape(-1, len(query))
    return dict(zip(ids, (rows * query.astype(np.float64)).sum(axis=1).tolist(), strict=True))


def _best(scores: dict[str, float], k: int) -> list[Hit]:
    ranked = sorted((-score, id_) for id_, score in scores.items())[:k]
    return [Hit(id_, -negative) for negative, id_ in ranked]
