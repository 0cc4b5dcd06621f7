"""Normals from depth: a plane is fitted around every pixel, and the way it faces is the pixel's normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ROWS = 128  # computed at a time, to bound memory
EDGE = 0.1  # neighbours whose depth differs by more than this share belong to another surface
FIELD_OF_VIEW = 55.0  # degrees, along the longer side, where nothing is known of the camera


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, in pixels: focal lengths, and the point it looks at. (0, 0) is the first pixel's centre."""

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if not (self.fx > 0 and self.fy > 0 and all(map(math.isfinite, (self.fx, self.fy, self.cx, self.cy)))):
            raise ValueError(f"focal lengths must be positive and all numbers finite, got {self}")

    @classmethod
    def usual(cls, width: int, height: int) -> Camera:
        """Square pixels, looking at the middle, 55 degrees wide along the longer side (a phone or a webcam)."""
        focal = max(width, height) / 2 / math.tan(math.radians(FIELD_OF_VIEW / 2))
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2)


def depth_to_normals(depth: np.ndarray, camera: Camera | None = None, *, window: int = 5) -> np.ndarray:
    """The normal of the surface at every pixel.

    On a plane the inverse depth is linear in the pixel, whichever way it is slanted: so a linear function is fitted to
    the inverse depths of the `window` x `window` pixels around each, by least squares. Exact on planes, and noise
    averages out. Pixels without depth take no part, and none beyond a jump in depth (`EDGE`).

    Args:
        depth: (height, width) along the optical axis, in any unit; 0, negative, NaN or infinite where there is none.
        camera: by default `Camera.usual`.
        window: odd, 3 or more. Larger ones smooth noise, and round edges.

    Returns:
        (height, width, 3) float32 unit vectors, x right, y up, z towards the viewer; 0 where there is no depth, or too
        little around it to tell.

    Raises:
        ValueError: `depth` is no map of one channel, or `window` is even or below 3.
    """
    depth = np.asarray(depth)
    if depth.ndim != 2 or 0 in depth.shape:
        raise ValueError(f"depth has the shape {depth.shape}; expected (height, width)")
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window must be odd and 3 or more, got {window}")
    height, width = depth.shape
    camera = camera or Camera.usual(width, height)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inverse = 1 / depth.astype(np.float64)
    inverse = np.where(np.isfinite(inverse) & (inverse > 0), inverse, 0.0)  # 0: none
    reach = window // 2
    padded = np.pad(inverse, reach)
    normals = np.empty((height, width, 3), np.float32)
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        across, down, known = _slopes(padded[top : bottom + 2 * reach], reach)
        middle = inverse[top:bottom]
        a, b = across * camera.fx, down * camera.fy
        u = (np.arange(width) - camera.cx) / camera.fx
        v = ((np.arange(top, bottom) - camera.cy) / camera.fy)[:, None]
        # 1 / z = a u + b v + c on the plane with (a, b, c) for a normal: away from the viewer, y down, z forward
        vectors = np.stack([-a, b, middle - a * u - b * v], axis=-1)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        known = known[..., None] & (lengths > 0)
        normals[top:bottom] = np.where(known, vectors / np.where(lengths > 0, lengths, 1), 0)
    return normals


def _slopes(padded: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How the inverse depth changes per pixel, across and down, and where that can be told: three (rows, width)."""
    height, width = padded.shape[0] - 2 * reach, padded.shape[1] - 2 * reach
    middle = padded[reach : reach + height, reach : reach + width]
    n, x, y, xx, xy, yy, w, xw, yw = np.zeros((9, height, width))
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            other = padded[reach + j : reach + j + height, reach + i : reach + i + width]
            # A pixel without depth is never near one that has one.
            near = np.abs(other - middle) <= EDGE * np.maximum(middle, other)
            rise = np.where(near, other - middle, 0)
            n += near
            x += i * near
            y += j * near
            xx += i * i * near
            xy += i * j * near
            yy += j * j * near
            w += rise
            xw += i * rise
            yw += j * rise
    # the normal equations, the mean taken out
    with np.errstate(divide="ignore", invalid="ignore"):
        sxx, sxy, syy = xx - x * x / n, xy - x * y / n, yy - y * y / n
        sxw, syw = xw - x * w / n, yw - y * w / n
        determinant = sxx * syy - sxy * sxy
        known = (middle > 0) & (determinant > 1e-9)  # three pixels that are not in one row
        across = np.where(known, (sxw * syy - syw * sxy) / determinant, 0)
        down = np.where(known, (syw * sxx - sxw * sxy) / determinant, 0)
    return across, down, known
