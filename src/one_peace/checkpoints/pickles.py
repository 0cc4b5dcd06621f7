"""Reading other people's pickles without running anything that is in them."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from one_peace.errors import CheckpointError

TORCH_LEGACY_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # first object of a torch.save file without a zip container


def load_pickle(path: Path) -> Any:
    """Contents of a `torch.save` file, memory-mapped where its format allows, or of a plain pickle.

    Only tensors, arrays and plain Python values are built; anything else is a `CheckpointError` that names the file
    and what it asked for, as is a damaged file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
        if zipfile.is_zipfile(path) or head.startswith(b"PK"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if TORCH_LEGACY_MAGIC in head:
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except OSError as error:
        if error.filename is not None:  # not found, not readable: the caller's path, not the file's content
            raise
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        refused = re.search(r"(?:GLOBAL|global:?) `?([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise CheckpointError(_refusal(refused[1], f"{path}: ")) from error
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); fetch it again") from error


def _refusal(name: str, where: str = "") -> str:
    return f"{where}refused, the pickle wants to use {name}; a checkpoint needs nothing but tensors and plain values"


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how old protocols write bytes


def _array(kind: type, shape: tuple[int, ...], typecode: bytes) -> np.ndarray:
    return np.empty((0,), dtype=np.uint8)  # the state that follows sets shape, dtype and data


def _from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype)[0]


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    dtype = np.dtype(code)
    if dtype.kind not in "biufc":
        raise CheckpointError(f"arrays of {dtype} are no weights")
    return dtype


class _PlainUnpickler(pickle.Unpickler):
    """Plain pickles of NumPy arrays and torch tensors, the form of the published vision branch."""

    KNOWN: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "argparse.Namespace": argparse.Namespace,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
        "torch.storage._load_from_bytes": _storage,
    } | {
        f"numpy.{package}.{name}": function
        for package in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _from_buffer,
        }.items()
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.KNOWN[f"{module}.{name}"]
        except KeyError:
            raise CheckpointError(_refusal(f"{module}.{name}")) from None
