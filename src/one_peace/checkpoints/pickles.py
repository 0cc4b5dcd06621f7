"""Reading other people's pickles without running anything that is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from one_peace.checkpoints.mapped_pickle import load_mapped, map_file
from one_peace.checkpoints.zip_container import ZipContainer, is_zip
from one_peace.errors import CheckpointError


def load_pickle(path: Path) -> Any:
    """Contents of a `torch.save` file or of a plain pickle; weights are memory-mapped.

    Only tensors, arrays and plain Python values are built; anything else is a `CheckpointError` that names the file
    and what it asked for, as is a damaged file.
    """
    with _named(path):
        return ZipContainer(path).load() if is_zip(path) else load_mapped(map_file(path))


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
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); fetch it again") from error
