"""Pictures: decoding any usual input to RGB, and the published preprocessing (bicubic, CLIP statistics)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.arrays import plain_values, to_uint8
from one_peace.media.signatures import file_type
from one_peace.media.sources import Source, describe, is_stored, looks_like_text, open_source

PictureSource: TypeAlias = Source | Image.Image | np.ndarray | Tensor

Statistics: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation of the channels, by which pixels in [0, 1] are normalised."""

CLIP: Statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # to [-1, 1]

# Above the largest phone cameras (108 Mpx), and what Pillow itself refuses; 683 MiB, as Pillow keeps RGB in 4 bytes.
MAX_PIXELS = 178_956_970
LONGEST = 100  # times its other side, of a picture that is resized whole before its middle is cut out

# Formats with a signature of their own. Pillow reads more, but some run other programs (EPS) and some accept
# nearly any bytes (TGA, PCX).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")


def decode_picture(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Any picture as an RGB image.

    Accepted:
      * a path, file:// or data: URL, bytes or binary file object holding JPEG, PNG, WebP, GIF, BMP, TIFF,
        AVIF, JPEG 2000, PPM, QOI or ICO; the first frame if it is animated; the EXIF orientation is applied;
      * a PIL image, taken as it stands (no EXIF rotation: its pixels are what the caller sees);
      * a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels last;
      * a torch tensor of those shapes or (1 | 3 | 4, H, W), where channels first wins if both fit.
    Arrays hold uint8, other integers in 0..255, uint16 (full range), bool, or floats in [0, 1].

    Transparent pixels are composited on white, because cut-outs (clip art, stickers, logos) hide arbitrary
    colours under alpha, usually black, which the published code (it drops the alpha channel) would show.
    Pictures without transparency, which is all that the published data held, come out the same either way.

    Raises:
        InputError: not a picture of these kinds, damaged or truncated, empty, of the wrong rank or range, or
            of more than `max_pixels` pixels, which is checked before anything is decoded.
    """
    name = describe(source)
    if isinstance(source, Image.Image):
        image = _load(source, name, max_pixels)
    elif is_stored(source):
        return _decode_file(source, name, max_pixels)
    elif isinstance(source, Tensor):
        image = _from_array(plain_values(source, name), name, max_pixels, channels_first=True)
    elif isinstance(source, np.ndarray):
        image = _from_array(source, name, max_pixels, channels_first=False)
    else:
        raise InputError(name, "expected a picture: a path, bytes, a file, a PIL image, an array or a tensor")
    return _rgb(image, name)


def image_tensor(image: Image.Image, size: int) -> Tensor:
    """The model's input: an RGB image stretched to (size, size), normalised. (3, size, size) float32."""
    return normalise(image.resize((size, size), Image.Resampling.BICUBIC))


def normalise(image: Image.Image) -> Tensor:
    """An RGB image as normalised pixels, (3, height, width) float32."""
    return normalise_pixels(pixels_of(image).to(torch.float32).div(255)).contiguous()


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image as (3, height, width) uint8."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def normalise_pixels(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, height, width) in [0, 1], minus CLIP's mean, over its deviation, in place."""
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in CLIP)
    return pixels.sub_(mean).div_(deviation)


def in_levels(pixels: Tensor) -> Tensor:
    """What `normalise_pixels` gives, back in levels of 0 to 255."""
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in CLIP)
    return (pixels * deviation + mean).mul_(255).clamp_(0, 255)


def without_ends(image: Image.Image) -> Image.Image:
    """A picture, or the middle of one longer than `LONGEST` times its other side: resized by that side to a given size,
    the whole could take any amount of memory."""
    most = LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = (max(0, side - most) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size` (aspect kept), then the middle (size, size): for classification."""
    image = without_ends(image)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    other = int(size * long / short)
    image = image.resize((size, other) if width <= height else (other, size), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def grounding_boxes(boxes: Tensor, width: int, height: int) -> Tensor:
    """Boxes of a picture of (width, height) relative to it, and so to its stretched input: 1 is the far edge.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels of the original picture. Not clipped.
    Returns:
        (n, 4) float32.
    """
    return boxes.to(torch.float32) / torch.tensor([width, height, width, height], dtype=torch.float32)


def _decode_file(source: Any, name: str, max_pixels: int) -> Image.Image:
    with open_source(source) as stream:
        try:
            opened = Image.open(stream, formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_many_pixels(name, max_pixels) from error
        except UnidentifiedImageError as error:
            raise InputError(name, f"is not a picture we can read: {_what_it_is(stream)}") from error
        except Exception as error:  # on damaged files Pillow's readers raise nearly every type there is
            raise _damaged(name, error) from error
        with opened, _ROOM.taken(opened.width * opened.height):
            return _rgb(_upright(_load(opened, name, max_pixels)), name)


class _Room:
    """Pixels of files that are decoded at the same time: threads wait until theirs find room, so that a file of a few
    kilobytes that unfolds to the largest size does not do so in every thread at once."""

    def __init__(self, pixels: int) -> None:
        self._whole = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        wanted = min(pixels, self._whole)  # what is larger is refused soon after
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


_ROOM = _Room(MAX_PIXELS)


def _load(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Check the size the header gives, then decode. An ICO learns its true size only when decoded."""
    _check_size(image.size, name, max_pixels)
    try:
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(name, max_pixels) from error
    except Exception as error:
        raise _damaged(name, error) from error
    _check_size(image.size, name, max_pixels)
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn a photograph the way its camera was held, noted in EXIF tag 274 and left to the viewer."""
    try:
        orientation = image.getexif().get(274)
    except Exception:  # unreadable metadata is no metadata: the pixels are fine
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(name, f"is a damaged or truncated picture ({str(error) or type(error).__name__})")


def _too_many_pixels(name: str, max_pixels: int, size: str = "too many") -> InputError:
    return InputError(name, f"has {size} pixels (at most {max_pixels:,} are accepted); scale it down first")


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise InputError(name, f"is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise _too_many_pixels(name, max_pixels, f"{width} x {height}")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these at 255 or wraps, depending on its version: scale them here. It stores 16-bit
        # grey in mode I, too, where a full scale of 65535 is what its own readers use.
        values = np.asarray(image)
        if image.mode != "F":
            values = np.clip(values, 0, 65535).astype(np.uint16)
        grey = to_uint8(values, name)
        if isinstance(clear := image.info.get("transparency"), int):
            grey = np.where(values == clear, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    try:
        if image.mode == "La":  # Pillow makes nothing else of it
            image = image.convert("LA")
        if image.has_transparency_data:
            transparent = image if image.mode == "RGBA" else image.convert("RGBA")
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(transparent, mask=transparent)  # as `alpha_composite` does, in half the memory
            return white
        return image.convert("RGB")
    except Exception as error:  # such as a palette that is missing, which Pillow asserts
        reason = str(error) or type(error).__name__
        raise InputError(name, f"cannot be converted from {image.mode} to RGB: {reason}") from error


def _from_array(array: np.ndarray, name: str, max_pixels: int, *, channels_first: bool) -> Image.Image:
    if array.ndim == 4:
        raise InputError(name, "is a batch (rank 4); pass the pictures as a list")
    if array.ndim not in (2, 3):
        raise InputError(name, f"has rank {array.ndim}; a picture is (H, W) or (H, W, 1 | 3 | 4)")
    if array.ndim == 3:
        if channels_first and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
        if array.shape[2] not in (1, 3, 4):
            hint = "; move the channels last: array.transpose(1, 2, 0)" if array.shape[0] in (1, 3, 4) else ""
            raise InputError(name, f"has {array.shape[2]} channels; expected 1, 3 or 4 of them{hint}")
    _check_size((array.shape[1], array.shape[0]), name, max_pixels)
    values = np.ascontiguousarray(to_uint8(array, name))
    return Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)


# Files that people take for pictures, and what to do with them.
_TO_CONVERT: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "it is a PDF; render its page to PNG"),
    (0, b"%!PS", "it is PostScript; render it to PNG"),
    (0, b"PK\x03\x04", "it is a zip archive (or an office document)"),
    (4, b"ftyphei", "it is HEIC; convert it to JPEG or PNG"),
    (4, b"ftypmif1", "it is HEIC; convert it to JPEG or PNG"),
)


def _what_it_is(stream: Any) -> str:
    """A guess at what was passed in place of a picture, to say what to do about it."""
    stream.seek(0)
    head = stream.read(2048)
    if not head:
        return "the file is empty"
    for offset, signature, advice in _TO_CONVERT:
        if head.startswith(signature, offset):
            return advice
    kind = file_type(head)
    if kind is not None and kind.family == "audio":
        return f"it is a sound file ({kind.ending.removeprefix('.').upper()})"
    if kind is not None and kind.family == "video":  # by the container, which may hold sound alone
        return "it is a video or sound file"
    if b"<svg" in head.lower():
        return "it is an SVG drawing; render it to PNG"
    if looks_like_text(head):
        return "it is text"
    return f"unknown format (those read: {', '.join(_FORMATS)})"
