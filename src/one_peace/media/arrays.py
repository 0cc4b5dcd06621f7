"""Arrays and tensors as inputs, and NumPy's files."""

from __future__ import annotations

import threading

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
