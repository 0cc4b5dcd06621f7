"""NYU Depth v2's own file, `nyu_depth_v2_labeled.mat`: MATLAB 7.3, which is HDF5, with all axes the other way round."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from one_peace.atomic_files import write_whole
from one_peace.errors import InputError, MissingExtraError
from one_peace.media.maps import write_depth_png

FILE = "nyu_depth_v2_labeled.mat"
FARTHEST = 8.0  # metres: as the toolbox of SUN RGB-D cuts it off


class LabeledScenes:
    """The scenes of the file by number, from 1 as in `splits.mat`.

    Raises:
        MissingExtraError: h5py is not installed.
        InputError: the file cannot be read, or lacks something.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise MissingExtraError(f"reading {path.name}, a MATLAB file of version 7.3,", "matlab") from error
        self.path = path
        try:
            self.file: Any = h5py.File(path, "r")
        except OSError as error:
            raise InputError(str(path), f"is no MATLAB file of version 7.3: {error}") from error
        if absent := [key for key in ("images", "depths", "sceneTypes") if key not in self.file]:
            raise InputError(str(path), f"has no {absent[0]}; it has {', '.join(self.file)}")
        cells = self.file["sceneTypes"][:].flatten()  # references to texts, each an array of 16-bit characters
        self.kinds = ["".join(map(chr, self.file[cell][:].flatten())) for cell in cells]

    def kind(self, number: int) -> str:
        """The scene's kind, such as `living_room`."""
        if not 0 < number <= len(self.kinds):
            raise InputError(str(self.path), f"has {len(self.kinds)} scenes, and the split names the {number}th")
        return self.kinds[number - 1]

    def writers(self, number: int) -> Mapping[str, Callable[[Path], None]]:
        """What writes a scene's depth, in millimetres of at most 8 m, and its picture, each as a PNG at a path."""
        return {"depth": partial(self._depth, number), "image": partial(self._picture, number)}

    def _depth(self, number: int, target: Path) -> None:
        metres = np.minimum(np.asarray(self.file["depths"][number - 1]).T, FARTHEST)  # (width, height) as stored
        content = io.BytesIO()
        write_depth_png(metres, content)
        write_whole(target, content.getvalue())

    def _picture(self, number: int, target: Path) -> None:
        pixels = np.asarray(self.file["images"][number - 1]).T  # (3, width, height) as stored
        content = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(content, "PNG")
        write_whole(target, content.getvalue())
