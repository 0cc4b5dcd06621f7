"""Pickles in a mapped file, read without copying their weights and without running anything in them.

Plain pickles of NumPy arrays or tensors, the form of the published vision branch, and what `torch.save` wrote before
version 1.6 (pickles, then the storages' bytes). Bytes of weights become views of the mapped file.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from one_peace.checkpoints.pickle_names import KNOWN, PendingArray, refusal
from one_peace.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a torch.save file without a zip container
LEGACY_MAGIC_BYTES = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # as it is pickled
NESTED = 1 << 20  # tuples in a tuple, each as often as it is referred to: all are looked at for the hash of a key
LARGE = 1 << 16  # bytes from which on a value is a view of the file; the size at which pickles end a frame


def map_file(path: Path) -> memoryview:
    """The bytes of a file, read when used; changes to them stay in this process."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def load_mapped(view: memoryview) -> Any:
    """Contents of such a file: tensors and arrays are views of it.

    `CheckpointError` names what a pickle wants to use besides tensors, arrays and plain values. A damaged
    pickle can raise anything.
    """
    return _load_legacy(view) if LEGACY_MAGIC_BYTES in bytes(view[:32]) else _read(_Reader(view))


class _Reader:
    """A file object over a buffer; large reads are views instead of copies."""

    def __init__(self, view: memoryview, position: int = 0) -> None:
        self.view, self.position = view, position

    def read(self, size: int) -> bytes | memoryview:
        piece = self.view[self.position : self.position + size]
        if len(piece) < size:
            raise EOFError("the file ends too early")
        self.position += size
        return piece if size >= LARGE else bytes(piece)

    def readinto(self, buffer: Any) -> int:
        buffer[:] = self.read(len(buffer))
        return len(buffer)

    def readline(self) -> bytes:
        line = bytes(self.view[self.position : self.position + LARGE]).partition(b"\n")[0] + b"\n"
        self.position += len(line)
        return line


_PythonUnpickler: Any = pickle._Unpickler


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The instruction that makes a tuple, for tuples of bounded depth."""

    def load_and_count(unpickler: Any) -> None:
        load(unpickler)
        made, nested = unpickler.stack[-1], unpickler.nested
        nested[id(made)] = 1 + sum(nested.get(id(item), 1) for item in made if isinstance(item, tuple))
        if nested[id(made)] > NESTED:
            raise CheckpointError("nests tuples in tuples without end, which no weights need")

    return load_and_count


class _Unpickler(_PythonUnpickler):
    """The interpreter in Python, for the one in C copies all it reads; builds only what is in `KNOWN`."""

    def __init__(self, reader: _Reader, storage: Callable[[Any], Any] | None) -> None:
        super().__init__(reader)
        self._storage = storage
        self.nested: dict[int, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return lambda data: _load_legacy(memoryview(data))
        try:
            return KNOWN[f"{module}.{name}"]
        except KeyError:
            raise refusal(f"{module}.{name}") from None

    def load_build(self) -> None:
        # Setting state on a function or class would change it for everybody.
        if not isinstance(self.stack[-2], PendingArray | np.dtype | OrderedDict | argparse.Namespace):
            raise CheckpointError(f"sets the state of a {type(self.stack[-2]).__name__}, which no weights need")
        super().load_build()

    dispatch = {
        **_PythonUnpickler.dispatch,
        pickle.BUILD[0]: load_build,
        **{
            code[0]: _counted(_PythonUnpickler.dispatch[code[0]])
            for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
        },
    }

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise pickle.UnpicklingError("it refers to data outside the pickle")  # as pictures seem to do
        return self._storage(pid)


def _read(reader: _Reader, storage: Callable[[Any], Any] | None = None) -> Any:
    return _finished(_Unpickler(reader, storage).load(), {})


def _finished(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The value with arrays in place of what stood for them; each object once, however often it is referred to.

    `done` maps identities to objects (which keeps them from being given to others) and what became of them.
    """
    if isinstance(value, PendingArray):
        return value.value
    if isinstance(value, argparse.Namespace):
        _finished(vars(value), done)
        return value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, tuple):
        items = [_finished(item, done) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        done[id(value)] = value, value if same else type(value)(items)
        return done[id(value)][1]
    done[id(value)] = value, value
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        value[key] = _finished(item, done)
    return value


def _load_legacy(view: memoryview) -> Any:
    """What follows the four headers: the object, the order of its storages, their bytes.

    The bytes come last, so the object is read twice: for the storages that it has, then with them.
    """
    reader = _Reader(view)
    if _read(reader) != LEGACY_MAGIC:
        raise CheckpointError("not a torch.save file")
    _read(reader)  # protocol version
    system = _read(reader)
    if isinstance(system, Mapping) and not system.get("little_endian", True):
        raise CheckpointError("written on a big-endian machine, which is not supported; save it again on another one")
    start = reader.position
    dtypes: dict[str, torch.dtype] = {}

    def note(pid: Any) -> None:
        dtypes[_storage_key(pid)] = pid[1]

    _read(reader, note)
    order = _read(reader)
    storages = {key: _read_storage(reader, dtypes[key]) for key in order}
    return _read(_Reader(view, start), lambda pid: storages[_storage_key(pid)])


def _storage_key(pid: Any) -> str:
    kind, dtype, key, *_, part = pid
    if kind != "storage" or not isinstance(dtype, torch.dtype) or part is not None:
        raise CheckpointError(f"refers to {reprlib.repr(pid)}, which is no storage of tensors")
    return key


def _read_storage(reader: _Reader, dtype: torch.dtype) -> Tensor:
    """A flat tensor over the bytes at the reader's position, which their number precedes."""
    count = int.from_bytes(reader.read(8), "little", signed=True)
    if count < 0:
        raise CheckpointError("a storage of negative size")
    size = count * dtype.itemsize
    piece = reader.view[reader.position : reader.position + size]
    if len(piece) < size:
        raise EOFError("the file ends too early")
    reader.position += size
    return _flat_tensor(piece, dtype)


def _flat_tensor(piece: memoryview, dtype: torch.dtype) -> Tensor:
    """A tensor (n,) over bytes."""
    if not len(piece):
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(piece) if piece.readonly else piece, dtype=dtype)  # small ones come as bytes
