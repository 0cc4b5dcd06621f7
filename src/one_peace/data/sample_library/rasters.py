"""Makes ready pictures of the library's originals: drawn, cropped to the object, on white, small."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from one_peace.atomic_files import replacing
from one_peace.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

LONGEST_SIDE = 256
_MARGIN = 0.04
_VISIBLE = 8  # alpha of 255 below which a pixel counts as empty: anti-aliasing and dust stay out of the crop
_DRAWN_SIDE = 384  # SVGs are drawn larger than needed, since the crop takes some of it away


def draw_svg(svg: str, source: str) -> Image.Image:
    """Draws SVG markup, fitted into a square of 384 px, as an RGBA picture.

    System fonts are left out: they are slow to load and differ between machines.

    Raises:
        InputError: the markup cannot be drawn.
        MissingExtraError: the SVG renderer is not installed.
    """
    try:
        import resvg_py
    except ImportError:
        raise MissingExtraError("drawing SVG pictures", "svg") from None
    from PIL import Image

    try:
        # Without `dpi`, sizes in points or millimetres come out as nothing and are refused.
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=_DRAWN_SIDE, height=_DRAWN_SIDE, dpi=96.0, skip_system_fonts=True
        )
    except ValueError as error:
        raise InputError(source, f"not an SVG that can be drawn ({error})") from error
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def open_raster(path: Path) -> Image.Image:
    """The picture of a PNG or WebP file as RGBA."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGBA")


def prepare(image: Image.Image, source: str) -> Image.Image:
    """Crops an RGBA picture to what is visible, puts it on white and shrinks it to 256 px at most.

    Raises:
        InputError: nothing of the picture is visible.
    """
    from PIL import Image

    alpha = image.getchannel("A")
    box = alpha.point(lambda value: 255 if value >= _VISIBLE else 0).getbbox()
    if box is None:
        raise InputError(source, "the picture is empty")
    margin = round(_MARGIN * max(box[2] - box[0], box[3] - box[1]))
    left, top, right, bottom = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    canvas = Image.new("RGBA", (right - left, bottom - top), "white")
    canvas.alpha_composite(image.crop(box), (margin, margin))
    picture = canvas.convert("RGB")
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        picture.save(partial, format="PNG", compress_level=4)


def pixel_hash(picture: Image.Image) -> str:
    """Identifies the pixels of a picture whatever file they are stored in."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()


def likeness_vector(picture: Image.Image) -> np.ndarray:
    """(1728,) float32, unit length: the dot product of two is the correlation of 24 x 24 thumbnails."""
    from PIL import Image

    small = np.asarray(picture.resize((24, 24), Image.Resampling.BOX), dtype=np.float32).reshape(-1)
    small = small - small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6))
