"""Inputs as users give them: one or many, decoded a few ahead of the network, in parts that fit into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeGuard, TypeVar

from one_peace.errors import InputError, OnePeaceError, ReadingFault
from one_peace.media.sources import describe
from one_peace.modalities.base import Example

Item = TypeVar("Item")
Made = TypeVar("Made")

PART_BYTES = 1 << 29  # decoded: more than 512 pictures of the published size
_AHEAD = 32  # inputs decoded, or on their way to that, beyond the part at hand
_FEW = 4  # below this, threads take longer to start than inputs to decode


def are_several(inputs: Any) -> TypeGuard[list[Any] | Iterator[Any]]:
    """Whether inputs are many: a list is, and an iterator; an open file, an iterator of its lines too, is one."""
    return isinstance(inputs, list | Iterator) and not hasattr(inputs, "read")


def list_inputs(inputs: Any) -> list[Any]:
    """Inputs of a modality, one or many, as a list."""
    return list(inputs) if are_several(inputs) else [inputs]


def several_texts(texts: Any) -> Any:
    """Texts in any collection as a list; one text, an iterator, and what is no text at all as they are."""
    several = isinstance(texts, Collection) and not isinstance(texts, str | bytes | Mapping)
    return list(texts) if several else texts


def check_modalities(asked: Iterable[str], known: Iterable[str], model: str) -> None:
    """`ValueError` for the first name that the model of this name has not, with those that it has."""
    known = tuple(known)
    for name in asked:
        if name not in known:
            raise ValueError(f"model {model!r} has no modality {name!r}; it has {', '.join(known)}")


def choose_modalities(asked: Iterable[str], known: Iterable[str], model: str) -> list[str]:
    """Those of the model's modalities that are asked for, in its order. `ValueError` for none, for a text in place of a
    list, and as of `check_modalities`."""
    known = tuple(known)
    if isinstance(asked, str):
        raise ValueError(f"modalities are a list of names, got {asked!r}; give [{asked!r}]")
    asked = list(asked)
    if not asked:
        raise ValueError(f"name at least one modality; model {model!r} has {', '.join(known)}")
    check_modalities(asked, known, model)
    return [name for name in known if name in asked]


@dataclass(frozen=True)
class Decoded:
    """What became of an input: its views, or its error. `name` is for messages."""

    index: int
    name: str
    views: list[Example] = field(default_factory=list)
    error: InputError | None = None

    @property
    def nbytes(self) -> int:
        """Of memory that the views hold; a part of a longer recording holds all of it."""
        storages = [tensor.untyped_storage() for view in self.views for tensor in view.values()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def decode_in_parts(
    sources: Iterable[Any], views: Callable[[Any], list[Example]], most: int
) -> Generator[list[Decoded], None, None]:
    """All inputs in their order, in parts of at most `most`, fewer where they hold more than `PART_BYTES`.

    A part is emptied when the next one is asked for. `views` decodes one input, several of them at the same time.
    """
    part: list[Decoded] = []
    held = 0
    for decoded in _decode_ahead(sources, views):
        part.append(decoded)
        held += decoded.nbytes
        if len(part) >= most or held >= PART_BYTES:
            yield part
            part.clear()  # the caller has this list, too, and is not to keep two parts
            held = 0
    if part:
        yield part


def _decode_ahead(sources: Iterable[Any], views: Callable[[Any], list[Example]]) -> Iterator[Decoded]:
    def decode(index: int, source: Any) -> Decoded:
        try:
            return Decoded(index, describe(source), views(source))
        except InputError as error:
            return Decoded(index, describe(source), error=error)
        except OnePeaceError:  # a package that is missing, say, which no other input will mend
            raise
        except Exception as error:  # what a modality of somebody else's raises on a damaged file is not ours to know
            fault = ReadingFault(describe(source), f"reading it failed ({type(error).__name__}: {error})")
            fault.__cause__ = error
            return Decoded(index, fault.source, error=fault)

    numbered = enumerate(sources)
    first = list(islice(numbered, _FEW))
    if len(first) < _FEW:
        for index, source in first:
            yield decode(index, source)
        return
    yield from run_ahead(lambda one: decode(*one), chain(first, numbered), _AHEAD)


def run_ahead(
    work: Callable[[Item], Made], items: Iterable[Item], ahead: int, threads: int | None = None
) -> Iterator[Made]:
    """What `work` makes of items, in their order; threads are at most `ahead` items beyond the caller."""
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
