"""Arrays and tensors as inputs, and NumPy's files."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from torch import Tensor

from one_peace.errors import InputError

PARSING = threading.Lock()
"""Held while NumPy parses the header of a file: Python 3.11 may fail to parse in two threads at once ("AST constructor
recursion depth mismatch")."""


def native_order(array: np.ndarray) -> np.ndarray:
    """The same values in the byte order of this machine: elsewhere types do not compare equal to those of NumPy."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def plain_values(tensor: Tensor, name: str) -> np.ndarray:
    """A tensor of any device as an array, floats of less than 32 bits as float32. `InputError` by `name` for one
    without plain values."""
    try:
        tensor = tensor.detach().cpu().resolve_neg()  # such is the imaginary part of a conjugate
        short = tensor.is_floating_point() and tensor.dtype.itemsize < 4  # of which NumPy knows one kind alone
        values: np.ndarray = (tensor.float() if short else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # meta, sparse or quantised tensors
        raise InputError(name, f"has no plain values to read ({error})") from error
    return values


def to_uint8(array: np.ndarray, name: str) -> np.ndarray:
    """Pixel values of any type as uint8, rounded to the nearest.

    uint8, other integers in 0..255, uint16 (full range), bool, or floats in [0, 1]; `InputError` by `name` for others.
    """
    array = native_order(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    low, high = _range(array, name)
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(name, "holds NaN or infinite values")
        if low < -1e-3 or high > 1 + 1e-3:
            raise InputError(name, f"holds floats in [{low:g}, {high:g}]; expected [0, 1] (or uint8)")
        return np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if low < 0 or high > 255:
        raise InputError(name, f"holds integers in [{low}, {high}]; expected 0..255 (or uint16, or floats)")
    return array.astype(np.uint8)


def _range(array: np.ndarray, name: str) -> tuple[Any, Any]:
    if array.dtype.kind not in "iuf":
        raise InputError(name, f"holds {array.dtype} values; expected uint8, or floats in [0, 1]")
    return array.min(), array.max()
