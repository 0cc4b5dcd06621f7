"""Reading other people's pickles without running anything that is in them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from one_peace.checkpoints.mapped_pickle import load_mapped, refusal
from one_peace.errors import CheckpointError


def load_pickle(path: Path) -> Any:
    """Contents of a `torch.save` file or of a plain pickle; weights are memory-mapped.

    Only tensors, arrays and plain Python values are built; anything else is a `CheckpointError` that names the file
    and what it asked for, as is a damaged file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(2)
        if zipfile.is_zipfile(path) or head.startswith(b"PK"):
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return load_mapped(path)
    except OSError as error:
        if error.filename is not None:  # not found, not readable: the caller's path, not the file's content
            raise
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        refused = re.search(r"(?:GLOBAL|global:?) `?([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise CheckpointError(f"{path}: {refusal(refused[1])}") from error
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); fetch it again") from error
