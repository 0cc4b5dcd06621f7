"""From files as read to rows of a store: their pieces through the model, branch by branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from one_peace.errors import ReadingFault
from one_peace.search.contents import Content, Piece
from one_peace.search.records import Entry, Record


class Encoder(Protocol):
    """What indexing and searching need of a model; `one_peace.OnePeace` is one."""

    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def dim(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_modality(self, name: str, inputs: Any, /, *, progress: bool | None, on_error: Any) -> Any: ...


def load_encoder(name: str, device: str) -> Encoder:
    """The model of a name or path. `ValueError` for one that gives no embeddings."""
    from one_peace.models.loading import load_embedder

    model: Encoder = load_embedder(name, device)
    return model


@dataclass(frozen=True, eq=False)
class Encoded:
    """The encoded pieces of a file, each with its unit-length vector (dim,); and what is wrong with a piece that could
    not be encoded, or with what could not even be read, "" if nothing is. `lasting` if that is the file's
    fault."""

    pieces: list[tuple[Piece, np.ndarray]]
    problem: str
    lasting: bool


def encode_contents(encoder: Encoder, contents: Sequence[Content]) -> list[Encoded]:
    """Each file's pieces encoded, all those of a branch in one call of the model."""
    places: dict[str, list[tuple[int, int]]] = {}  # of each branch: number of the file, and of the piece in it
    for number, content in enumerate(contents):
        for part, piece in enumerate(content.pieces):
            places.setdefault(piece.branch, []).append((number, part))
    vectors: dict[tuple[int, int], np.ndarray] = {}
    problems = {number: content.problem for number, content in enumerate(contents) if content.problem}
    faults: set[int] = set()
    for branch, some in places.items():
        sources = [contents[number].pieces[part].source for number, part in some]
        result = encoder.encode_modality(branch, sources, progress=False, on_error="skip")
        for kept, vector in zip(result.kept, result.vectors.numpy(), strict=True):
            vectors[some[kept]] = vector
        for failed, error in result.errors.items():
            problems.setdefault(some[failed][0], error.problem)
            if isinstance(error, ReadingFault):
                faults.add(some[failed][0])
    return [
        Encoded(
            [(piece, vectors[n, part]) for part, piece in enumerate(content.pieces) if (n, part) in vectors],
            problems.get(n, ""),
            lasting=n not in faults,
        )
        for n, content in enumerate(contents)
    ]


def rows_of(whole: Entry, content: Content, encoded: Encoded) -> list[Record]:
    """The rows of a file, one for each piece. `whole` is what they share; its `item` is the id of the first."""
    records = []
    for part, (piece, vector) in enumerate(encoded.pieces):
        entry = replace(
            whole,
            id=row_id(whole.item, part),
            caption=piece.caption or whole.caption,
            branch=piece.branch,
            part=part,
            parts=len(encoded.pieces),
            label=piece.label,
            start=piece.start,
        )
        records.append(Record(entry, vector, piece.thumbnail or content.thumbnail))
    return records


def row_id(item: str, part: int) -> str:
    """The id of a row: that of its item, with the number of the part if it is not the first."""
    return f"{item}#{part}" if part else item


def item_of(row: str) -> str:
    """The id of the item that a row, by its id, is a part of."""
    return row.partition("#")[0]
