"""Functions and classes that pickles of weights name, and what is called in their place; nothing else ever is."""

from __future__ import annotations

import argparse
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from one_peace.errors import CheckpointError

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
} | {"torch.storage.UntypedStorage": torch.uint8}


def refusal(name: str) -> CheckpointError:
    """The error for a pickle that asks for a function or class that no weights need."""
    return CheckpointError(
        f"refused, the pickle wants to use {name}; a checkpoint needs nothing but dense tensors and plain values"
    )


class PendingArray:
    """Stands for a NumPy array until the pickle has set its state."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_buffer(data, dtype, shape, "F" if fortran else "C")


def _array(kind: Any, shape: Any, typecode: Any) -> PendingArray:
    return PendingArray()


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


def _tensor_of_bytes(
    storage: Tensor | None, offset: int, size: Any, stride: Any, grad: bool, hooks: Any, dtype: torch.dtype, *rest: Any
) -> Tensor | None:
    return None if storage is None else _tensor(storage.view(dtype), offset, size, stride)


def _parameter(data: Tensor | None, *rest: Any) -> Tensor | None:
    return data


def _bytearray(data: bytes = b"") -> bytearray:
    return bytearray(memoryview(data))  # of a number it would be as many bytes


KNOWN: Mapping[str, Any] = {
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, complex, list, dict, int, float)
    },
    "builtins.bytearray": _bytearray,
    "__builtin__.bytearray": _bytearray,
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.defaultdict": lambda *factory: {},  # what it makes of absent keys is no part of its content
    "argparse.Namespace": argparse.Namespace,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_bytes,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": lambda build, kind, content, state: build(*content),
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
"""None stands for classes that are named, not called."""
