"""Runs in a process of its own: turns what a client sent into model inputs, within limits."""

from __future__ import annotations

import contextlib
import pickle
import resource
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from one_peace.errors import InputError, OnePeaceError
from one_peace.media.pictures import decode_picture
from one_peace.media.sounds import decode_sound
from one_peace.modalities.base import Processor
from one_peace.modalities.imports import import_modality
from one_peace.search.file_kinds import KINDS
from one_peace.server.settings import Limits
from one_peace.server.sniffing import refuse_disguise

_MEMORY = 4 << 30  # bytes of data a process may hold; a picture within the limits needs a tenth


def serve_decoding(connection: Connection) -> None:
    """Answers jobs until told None.

    First it is told what to import, the pickled processors by modality, and the `Limits`, and says when it is ready. A
    job is (modality, contents), answered with ("views", list of dicts of arrays), or (kind of file, path), answered
    with ("views", []); either with ("error", error) instead.
    """
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the service, which ends us when it is done
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, BrokenPipeError):  # the service was killed: nobody is left to work for
        _answer_all(connection)


def _answer_all(connection: Connection) -> None:
    limits: Limits
    imports, pickled, limits = connection.recv()
    for name in imports:
        import_modality(name)
    processors: Mapping[str, Processor] = pickle.loads(pickled)
    connection.send(None)
    while (job := connection.recv()) is not None:
        name, source = job
        connection.send(_answer(name, source, processors, limits))


def decode(
    modality: str, contents: bytes, processors: Mapping[str, Processor], limits: Limits
) -> list[dict[str, np.ndarray]]:
    """The views of an encoded input, as arrays.

    Raises:
        InputError: not of this modality, damaged, over a limit, or of two kinds at the same time.
    """
    refuse_disguise(contents)
    given = _limited(modality, contents, limits)
    return [{key: value.numpy() for key, value in view.items()} for view in processors[modality].views(given)]


def check(kind: str, path: Path, processors: Mapping[str, Processor], limits: Limits) -> None:
    """Reads a file as the library will, and drops what comes out. Raises `InputError` as `decode` does."""
    refuse_disguise(path)
    if kind in ("image", "audio"):
        _limited(kind, path, limits)
    elif kind in KINDS:
        KINDS[kind].read(path, tuple(processors))
    else:
        processors[kind].views(path)


def _limited(modality: str, source: bytes | Path, limits: Limits) -> Any:
    """What a processor takes, decoded here where the limits are known."""
    if modality == "image":
        return decode_picture(source, max_pixels=limits.pixels)
    if modality == "audio":
        return decode_sound(source, max_seconds=limits.sound_seconds)
    return source


def _answer(name: str, source: bytes | Path, processors: Mapping[str, Processor], limits: Limits) -> tuple[str, Any]:
    try:
        if isinstance(source, bytes):
            return "views", decode(name, source, processors, limits)
        check(name, source, processors, limits)
        return "views", []
    except InputError as error:
        return "error", InputError(f"the {name}", error.problem)  # not the name of a file of ours
    except MemoryError:
        return "error", InputError(f"the {name}", "needs more memory to decode than is allowed")
    except OnePeaceError as error:
        return "error", error
    except Exception as error:  # a decoder's fault; the client learns that its input cannot be used
        return "error", InputError(f"the {name}", f"cannot be decoded ({type(error).__name__})")
