"""Reading other people's pickles without running anything that is in them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from one_peace.checkpoints.mapped_pickle import load_mapped, map_file
from one_peace.checkpoints.pickle_names import refusal
from one_peace.checkpoints.zip_container import ZipContainer, is_zip
from one_peace.errors import CheckpointError

SAFE: list[Any] = [  # besides tensors and plain values: what training scripts leave in a container
    argparse.Namespace,
    bytearray,
    complex,
    frozenset,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in np.sctypeDict.values() if np.dtype(kind).kind in "biufc"},
    *(
        (function, f"numpy.{package}.multiarray.{name}")
        for package in ("core", "_core")
        for name, function in (
            ("scalar", np.dtype(int).type(0).__reduce__()[0]),
            ("_reconstruct", np.zeros(1).__reduce__()[0]),
        )
    ),
]
REFUSED = re.compile(r"[Uu]nsupported (?:global: GLOBAL|GLOBAL|class) ([\w.]+)")


def load_pickle(path: Path) -> Any:
    """Contents of a `torch.save` file or of a plain pickle; weights are memory-mapped.

    Only tensors, arrays and plain Python values are built; anything else is a `CheckpointError` that names the file
    and what it asked for, as is a damaged file.
    """
    with _named(path):
        if path.suffix == ".safetensors" and path.is_file():
            raise CheckpointError("holds tensors alone; give the folder that has config.json beside it")
        if not is_zip(path):
            return load_mapped(map_file(path))
        container = ZipContainer(path)
        container.check_records()
        with torch.serialization.safe_globals(SAFE):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        container.check_storages(loaded)
        return loaded


def pickle_in_zip(path: Path) -> memoryview | None:
    """The pickle of a `torch.save` file, unread; None for files of other forms. Errors as of `load_pickle`."""
    with _named(path):
        return ZipContainer(path).pickle if is_zip(path) else None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes errors of reading a file into `CheckpointError`s that name it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:  # not found, not readable: the caller's path, not the file's content
            raise
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        # PyTorch's text tells how to run what is in the file, which nobody should who reads this.
        text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
        if wanted := REFUSED.search(text):
            raise CheckpointError(f"{path}: {refusal(wanted[1])}") from None
        reason = text.split("\n")[0].partition(" Please use")[0] or type(error).__name__
        if "weights_only" in reason:
            reason = "it asks for more than weights"
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); fetch it again") from error
