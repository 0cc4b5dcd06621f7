"""Captions, depth and normals of a clip: from functions of a user's own, from folders, or from each other."""

from __future__ import annotations

import importlib
import inspect
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from one_peace.data.depth_to_normals import depth_to_normals
from one_peace.errors import InputError, OnePeaceError
from one_peace.media.maps import MAP_ENDINGS, write_depth_png
from one_peace.modalities.depth import read_depth
from one_peace.modalities.imports import import_modality
from one_peace.modalities.normals import encode_normals, read_normals

Captioner: TypeAlias = Callable[[Sequence[Image.Image], np.ndarray | None], str | Sequence[str]]
"""Frames (RGB, evenly over the clip) and the waveform (n,) at 16 kHz, or None -> one caption or several."""

Estimator: TypeAlias = Callable[[Image.Image], Any]
"""An RGB picture -> depth (height, width), or normals (height, width, 3), in any form that maps are read in."""

FROM_DEPTH = "depth"  # where the normals come from
MIDDLE = 4.0  # the median of depths of unknown scale, in metres
_FUNCTION = re.compile(r"(?P<where>.+):(?P<name>[A-Za-z_]\w*)")


def is_function(given: str) -> bool:
    """Whether `FILE.py:NAME` or `MODULE:NAME` is meant, and no folder."""
    return _FUNCTION.fullmatch(given) is not None and not Path(given).is_dir()


def load_function(given: str) -> Callable[..., Any]:
    """What `find_function` finds; a class is made an object of, once, so that it may load a model."""
    found = find_function(given)
    if not inspect.isclass(found):
        return found
    made: Any = found()
    return made


def find_function(given: str) -> Callable[..., Any]:
    """What `FILE.py:NAME` or `MODULE:NAME` names.

    Raises:
        InputError: there is no such thing, or it cannot be called.
    """
    found = _FUNCTION.fullmatch(given)
    if found is None:
        raise InputError(given, "is no function; expected FILE.py:NAME or MODULE:NAME")
    where, name = found["where"], found["name"]
    import_modality(where)
    module = importlib.import_module(Path(where).stem if where.endswith(".py") else where)
    thing: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(thing):
        raise InputError(given, f"{where} has no function {name}")
    return thing


class MapMaker:
    """Depth and normals of a clip's picture, as named files for its shard.

    `depth` and `normals` name a function, or a folder with `KEY.depth.png`, `KEY.png`, `KEY.npy`, ...; "" is none.
    Normals may also come `FROM_DEPTH`. Depth of a function is in metres, or with `disparity` a disparity of any scale.
    """

    def __init__(self, depth: str, normals: str, disparity: bool) -> None:
        self.disparity = disparity
        self.depth = load_function(depth) if is_function(depth) else depth
        self.normals = load_function(normals) if is_function(normals) else normals

    def files(self, key: str, picture: Image.Image, lacking: dict[str, str]) -> dict[str, bytes]:
        """Contents by ending; what could not be made is noted in `lacking` with the reason."""
        made: dict[str, bytes] = {}
        values: np.ndarray | None = None
        if self.depth:
            try:
                ending, content, values = self._depth(key, picture)
                made[ending] = content
            except Exception as error:  # an estimator of somebody else's may raise anything
                lacking["depth"] = _why(error)
        if self.normals == FROM_DEPTH and values is not None:
            made["normals.png"] = _png(depth_to_normals(values))
        elif self.normals == FROM_DEPTH:
            lacking["normals"] = "there is no depth"
        elif self.normals:
            try:
                ending, content = self._normals(key, picture)
                made[ending] = content
            except Exception as error:
                lacking["normals"] = _why(error)
        return made

    def _depth(self, key: str, picture: Image.Image) -> tuple[str, bytes, np.ndarray]:
        if isinstance(self.depth, str):
            file, form = _file_of(self.depth, key, ("depth", "disparity"))
            return form, file.read_bytes(), read_depth(file, disparity=self.disparity)
        values = read_depth(self.depth(picture), disparity=self.disparity)
        metres = values * (MIDDLE / np.nanmedian(values)) if self.disparity else values
        content = io.BytesIO()
        write_depth_png(metres, content)
        return "depth.png", content.getvalue(), values

    def _normals(self, key: str, picture: Image.Image) -> tuple[str, bytes]:
        if isinstance(self.normals, str):
            file, form = _file_of(self.normals, key, ("normals",))
            read_normals(file)
            return form, file.read_bytes()
        return "normals.png", _png(read_normals(self.normals(picture)))


def _file_of(folder: str, key: str, kinds: Sequence[str]) -> tuple[Path, str]:
    """The map of a clip in a folder, and its ending in a shard."""
    for kind in kinds:
        for form in MAP_ENDINGS:
            if (file := Path(folder, f"{key}.{kind}.{form}")).is_file():
                return file, f"{kind}.{form}"
    for form in MAP_ENDINGS:
        if (file := Path(folder, f"{key}.{form}")).is_file():
            return file, f"{kinds[0]}.{form}"
    raise InputError(folder, f"holds no map of {key}")


def _png(normals: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(encode_normals(normals)).save(content, "PNG")
    return content.getvalue()


def _why(error: Exception) -> str:
    if isinstance(error, OnePeaceError) and not isinstance(error, InputError):
        raise error  # a package that is missing, say, which no other clip will mend
    return error.problem if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
