"""Pickles without a zip container, read without copying their weights and without running anything in them.

Two forms: what `torch.save` wrote before version 1.6 (pickles, then the storages' bytes), and plain pickles of NumPy
arrays or tensors, the form of the published vision branch. Bytes of weights become views of the mapped file.
"""

from __future__ import annotations

import argparse
import math
import mmap
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from one_peace.errors import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of a torch.save file without a zip container
LEGACY_MAGIC_BYTES = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # as it is pickled
LARGE = 1 << 16  # bytes from which on a value is a view of the file; the size at which pickles end a frame

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


def load_mapped(path: Path) -> Any:
    """Contents of such a file: tensors and arrays are views of it, private to this process.

    `CheckpointError` names what a pickle wants to use besides tensors, arrays and plain values. A damaged
    pickle can raise anything.
    """
    with open(path, "rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return _load_legacy(view) if is_legacy(bytes(view[:64])) else _plain(_Reader(view))


def is_legacy(head: bytes) -> bool:
    """Whether a file that starts like this is one that `torch.save` wrote without a zip container."""
    return LEGACY_MAGIC_BYTES in head[:32]


def refusal(name: str) -> CheckpointError:
    """The error for a pickle that asks for a function or class that no weights need."""
    return CheckpointError(
        f"refused, the pickle wants to use {name}; a checkpoint needs nothing but tensors and plain values"
    )


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


class _Array:
    """Stands for a NumPy array until the pickle has set its state."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_buffer(data, dtype, shape, "F" if fortran else "C")


def _array(kind: Any, shape: Any, typecode: Any) -> _Array:
    return _Array()


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype, count=math.prod(shape)).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype)[0]


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    dtype = np.dtype(code, align, True)  # a copy: the state that follows sets its byte order
    if dtype.kind not in "biufc":
        raise CheckpointError(f"arrays of {dtype} are no weights")
    return dtype


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how old protocols write bytes


def _tensor(storage: Tensor | None, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor | None:
    return None if storage is None else storage.as_strided(size, stride, offset)  # checks its bounds


def _parameter(data: Tensor | None, *rest: Any) -> Tensor | None:
    return data


_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """The interpreter in Python, for the one in C copies all it reads; builds only what is in `KNOWN`."""

    KNOWN: Mapping[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "argparse.Namespace": argparse.Namespace,
        "torch.Size": torch.Size,
        "numpy.ndarray": None,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.storage._load_from_bytes": lambda data: _load_legacy(memoryview(data)),
        **STORAGES,
        **{
            f"numpy.{package}.{name}": function
            for package in ("core", "_core")
            for name, function in {
                "multiarray._reconstruct": _array,
                "multiarray.scalar": _scalar,
                "numeric._frombuffer": _from_buffer,
            }.items()
        },
    }

    def __init__(self, reader: _Reader, storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(reader)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[f"{module}.{name}"]
        except KeyError:
            raise refusal(f"{module}.{name}") from None

    def load_build(self) -> None:
        # Setting state on a function or class would change it for everybody.
        if not isinstance(self.stack[-2], _Array | np.dtype | OrderedDict | argparse.Namespace):
            raise CheckpointError(f"sets the state of a {type(self.stack[-2]).__name__}, which no weights need")
        super().load_build()

    dispatch = {**_PythonUnpickler.dispatch, pickle.BUILD[0]: load_build}

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise CheckpointError("refers to data outside the pickle")
        return self._storage(pid)


def _plain(reader: _Reader, storage: Callable[[Any], Any] | None = None) -> Any:
    return _finished(_Unpickler(reader, storage).load())


def _finished(value: Any) -> Any:
    """The value with arrays in place of what stood for them."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _finished(item)
    elif isinstance(value, list | tuple):
        return type(value)(map(_finished, value))
    elif isinstance(value, argparse.Namespace):
        _finished(vars(value))
    return value


def _load_legacy(view: memoryview) -> Any:
    """What follows the four headers: the object, the order of its storages, their bytes.

    The bytes come last, so the object is read twice: for the storages that it has, then with them.
    """
    reader = _Reader(view)
    if _plain(reader) != LEGACY_MAGIC:
        raise CheckpointError("not a torch.save file")
    _plain(reader)  # protocol version
    system = _plain(reader)
    if isinstance(system, Mapping) and not system.get("little_endian", True):
        raise CheckpointError("written on a big-endian machine, which is not supported; save it again on another one")
    start = reader.position
    dtypes: dict[str, torch.dtype] = {}

    def note(pid: Any) -> None:
        dtypes[_storage_key(pid)] = pid[1]

    _plain(reader, note)
    order = _plain(reader)
    storages = {key: _read_storage(reader, dtypes[key]) for key in order}
    return _plain(_Reader(view, start), lambda pid: storages[_storage_key(pid)])


def _storage_key(pid: Any) -> str:
    kind, dtype, key, *_, part = pid
    if kind != "storage" or not isinstance(dtype, torch.dtype) or part is not None:
        raise CheckpointError(f"refers to {str(pid)[:80]}, which is no storage of tensors")
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
    return torch.frombuffer(_writable(piece), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _writable(piece: memoryview) -> memoryview:
    return memoryview(bytearray(piece)) if piece.readonly else piece  # small ones come as bytes
