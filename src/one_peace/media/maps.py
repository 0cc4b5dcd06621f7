"""Maps: arrays over the pixels of a picture (depth, normals, ...), from any file or array that holds their values."""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.arrays import PARSING, plain_values
from one_peace.media.pictures import MAX_PIXELS
from one_peace.media.sources import Source, describe, is_stored, local_path, open_source

MapSource: TypeAlias = Source | np.ndarray | Tensor | Image.Image

MAP_ENDINGS = ("png", "npy", "npz", "tif", "tiff", "pfm")
MAX_MAP_BYTES = 1 << 30  # of an array in a file
_PICTURES = ("PNG", "TIFF", "PPM")  # lossless: the values of a JPEG are not those that were written
_STEP = 0.001  # metres, of depth in files that we write
_EXR = b"v/1\x01"


@dataclass(frozen=True, eq=False)
class RawMap:
    """A map as it is stored: (height, width) or (height, width, channels), of any real type.

    `key` is its name in an .npz, or what its file says by a name such as `x.KEY.png`, else "". `encoded` says that
    whole numbers stand for a range, as in a picture. `name` is for messages.
    """

    values: np.ndarray
    key: str
    encoded: bool
    name: str


def read_map(source: MapSource, keys: Sequence[str]) -> RawMap:
    """A map from any of these:

    * a path, file:// or data: URL, bytes or binary file object holding .npy, .npz, .pfm, or a picture without loss
      (PNG, TIFF or PGM of 8 or 16 bits, TIFF of floats); of an .npz the first of `keys` in it, or its only array;
    * a NumPy array or torch tensor (height, width), (height, width, channels) or (channels, height, width) of at most
      4 channels, where channels last wins if both fit; what a masked array hides is not there;
    * a PIL image.

    Raises:
        InputError: not such a thing, damaged, empty, of the wrong rank or type, too large, complex or of objects.
            OpenEXR files are named and refused: no library for them comes with this package.
    """
    name = describe(source)
    if is_stored(source):
        with open_source(source) as stream:  # type: ignore[arg-type]
            values, key, encoded = _read_file(stream, keys, name)
        path = local_path(source)
        if key not in keys and path is not None and (word := path.with_suffix("").suffix.lower()[1:]) in keys:
            key = word
    elif isinstance(source, Image.Image):
        values, key, encoded = _picture_values(source, name), "", True
    elif isinstance(source, Tensor):
        values, key, encoded = plain_values(source, name), "", not source.is_floating_point()
    elif isinstance(source, np.ndarray):
        values, key, encoded = _unmasked(source), "", source.dtype.kind != "f"
    else:
        raise InputError(name, "expected a map: a path, bytes, a file, an array, a tensor or a PIL image")
    return RawMap(_checked(values, name), key, encoded, name)


def resize_map(values: Tensor, weights: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A map averaged over its usable pixels alone.

    Args:
        values: (channels, height, width) float32, anything finite where the weight is 0.
        weights: (height, width) float32, 1 where the map has a value, else 0.

    Returns:
        (channels, *size), 0 where no pixel near has a value, and (*size,) the share of pixels that had one.
    """
    stacked = torch.cat([values * weights, weights[None]])[None]
    if tuple(values.shape[1:]) != size:
        stacked = F.interpolate(stacked, size, mode="bilinear", align_corners=False, antialias=True)
    summed, share = stacked[0, :-1], stacked[0, -1].clamp(0, 1)
    return torch.where(share > 1e-3, summed / share.clamp_min(1e-3), 0.0), share


def _unmasked(values: np.ndarray) -> np.ndarray:
    """A masked array as a plain one, with 0, which is no depth and no normal, where it hides one."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    nothing: np.ndarray = values.filled(0)
    return nothing


def _read_file(stream: BinaryIO, keys: Sequence[str], name: str) -> tuple[np.ndarray, str, bool]:
    head = stream.read(16)
    stream.seek(0)
    if not head:
        raise InputError(name, "the file is empty")
    if head.startswith(b"\x93NUMPY"):
        values = _read_npy(stream, name)
        return values, "", values.dtype.kind != "f"
    if head.startswith(b"PK"):
        return _read_npz(stream, keys, name)
    if re.match(rb"P[Ff]\s", head):
        return _read_pfm(stream, name), "", False
    if head.startswith(_EXR):
        raise InputError(name, "is OpenEXR, which is not read here; convert it to .npy or 16-bit PNG")
    try:
        with Image.open(stream, formats=_PICTURES) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(name, f"has {picture.width} x {picture.height} pixels (at most {MAX_PIXELS:,})")
            return _picture_values(picture, name), "", picture.mode != "F"
    except InputError:
        raise
    except UnidentifiedImageError as error:
        kinds = ".npy, .npz, .pfm, or PNG, TIFF or PGM"
        raise InputError(name, f"is no map we can read, or its beginning is damaged; expected {kinds}") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly every type there is
        raise InputError(name, f"is a damaged or truncated picture ({error})") from error


def _read_npy(stream: BinaryIO, name: str) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with PARSING:
            shape, _, dtype = read(stream)
        if math.prod(shape) * dtype.itemsize > MAX_MAP_BYTES:
            raise InputError(name, f"holds an array of shape {shape}, more than {MAX_MAP_BYTES} B")
        stream.seek(0)
        with PARSING:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # a damaged header is parsed as Python, which fails in many ways
        raise InputError(name, f"is a damaged .npy file, or one of objects ({error})") from error


def _read_npz(stream: BinaryIO, keys: Sequence[str], name: str) -> tuple[np.ndarray, str, bool]:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}
            key = next((key for key in keys if key in members), None)
            if key is None and len(members) == 1:
                key = next(iter(members))
            if key is None:
                raise InputError(name, f"holds the arrays {', '.join(members) or 'none'}; one is to be named {keys[0]}")
            if members[key].file_size > MAX_MAP_BYTES:
                raise InputError(name, f"holds an array of {members[key].file_size} B, more than {MAX_MAP_BYTES} B")
            values = _read_npy(io.BytesIO(archive.read(members[key])), name)
            return values, key, values.dtype.kind != "f"
    except InputError:
        raise
    except Exception as error:  # of zipfile, zlib and struct
        raise InputError(name, f"is a damaged .npz file ({error})") from error


def _read_pfm(stream: BinaryIO, name: str) -> np.ndarray:
    """Portable float map: rows from the bottom up, a negative scale for little-endian values."""
    try:
        kind = stream.readline(16).strip()
        width, height = (int(word) for word in stream.readline(64).split())
        scale = float(stream.readline(64))
    except ValueError as error:
        raise InputError(name, f"is a damaged .pfm file ({error})") from error
    channels = 3 if kind == b"PF" else 1
    size = 4 * width * height * channels
    if not 0 < size <= MAX_MAP_BYTES or min(width, height) < 1:
        raise InputError(name, f"is a .pfm of {width} x {height} pixels; expected 1 to {MAX_MAP_BYTES} B")
    content = stream.read(size)
    if len(content) < size:
        raise InputError(name, f"is truncated: its header promises {size} B, {len(content)} are there")
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4").reshape(height, width, channels)
    return values[::-1].astype(np.float32)


def _picture_values(picture: Image.Image, name: str) -> np.ndarray:
    try:
        if picture.mode in ("P", "1", "RGBA", "LA", "CMYK", "YCbCr"):
            picture = picture.convert("RGB" if picture.mode != "LA" else "L")  # palettes; alpha has no part in a map
        return np.asarray(picture)
    except Exception as error:
        raise InputError(name, f"is a damaged or truncated picture ({error})") from error


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        raise InputError(name, f"holds {values.dtype} values; a map holds whole numbers or floats")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise InputError(name, f"has the shape {values.shape}; a map is (height, width) or (height, width, channels)")
    if values.ndim == 3 and values.shape[2] > 4 and values.shape[0] <= 4:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] > 4:
        raise InputError(name, f"has {values.shape[2]} channels; at most 4 are accepted")
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        raise InputError(name, f"has {values.shape[1]} x {values.shape[0]} pixels (at most {MAX_PIXELS:,})")
    return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values


def write_depth_png(depth: np.ndarray, file: str | os.PathLike[str] | BinaryIO) -> None:
    """Depth (height, width) in metres as a 16-bit grey PNG in steps of a millimetre; 0 where there is none.

    What is farther than 65.535 m is written as that.
    """
    steps = np.nan_to_num(np.asarray(depth, np.float64) / _STEP, nan=0.0, posinf=0.0, neginf=0.0)
    steps = np.where(steps > 0, np.clip(np.rint(steps), 1, 65535), 0).astype(np.uint16)
    Image.fromarray(steps).save(file, "PNG")
