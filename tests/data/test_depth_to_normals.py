"""Normals from depth: exact on planes, close on spheres and under noise, careful where there is no depth."""

from __future__ import annotations

import numpy as np
import pytest

from one_peace.data.depth_to_normals import Camera, depth_to_normals

HEIGHT, WIDTH = 60, 80
CAMERA = Camera(70.0, 75.0, 37.0, 31.0)


def rays(camera: Camera = CAMERA) -> np.ndarray:
    """(height, width, 3) directions of the pixels, z = 1, y down."""
    u = (np.arange(WIDTH) - camera.cx) / camera.fx
    v = (np.arange(HEIGHT) - camera.cy) / camera.fy
    return np.stack([*np.meshgrid(u, v), np.ones((HEIGHT, WIDTH))], axis=-1)


def plane(normal: np.ndarray, distance: float = 2.0, camera: Camera = CAMERA) -> np.ndarray:
    """Depth of a plane whose normal, in our axes (y up, z towards the viewer), faces the camera."""
    return distance / (rays(camera) @ (-unit(normal) * np.array([1, -1, -1])))


def unit(vector: object) -> np.ndarray:
    array = np.asarray(vector, float)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def degrees(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((ours * theirs).sum(axis=-1), -1, 1)))


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, 0, 1), (0, 0.6, 1), (-0.4, -0.7, 1)])
def test_planes_are_exact_up_to_the_border(normal: tuple[float, float, float]) -> None:
    found = depth_to_normals(plane(np.array(normal)), CAMERA)
    assert found.dtype == np.float32 and found == pytest.approx(np.broadcast_to(unit(normal), found.shape), abs=1e-5)


def test_a_floor_faces_up_and_a_wall_on_the_left_faces_right() -> None:
    x, y, _ = np.moveaxis(rays(), -1, 0)
    floor = np.where(y > 0.05, 1.5 / np.where(y > 0.05, y, 1), 0)
    assert depth_to_normals(floor, CAMERA)[50, 40] == pytest.approx([0, 1, 0], abs=1e-4)
    wall = np.where(x < -0.05, -1.5 / np.where(x < -0.05, x, 1), 0)
    assert depth_to_normals(wall, CAMERA)[30, 5] == pytest.approx([1, 0, 0], abs=1e-4)


def test_neither_the_unit_nor_the_strip_of_rows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = plane(np.array([0.3, 0.4, 1])) * (1 + 0.02 * np.sin(np.arange(WIDTH)))
    whole = depth_to_normals(depth, CAMERA)
    assert depth_to_normals(1000 * depth, CAMERA) == pytest.approx(whole, abs=1e-5)
    monkeypatch.setattr("one_peace.data.depth_to_normals.ROWS", 7)
    assert depth_to_normals(depth, CAMERA) == pytest.approx(whole, abs=1e-6)


def test_a_sphere_is_close_and_its_surroundings_are_not_mixed_in() -> None:
    directions, centre, radius = rays(), np.array([0.1, -0.05, 3.0]), 1.0
    a, b = (directions**2).sum(-1), directions @ centre
    root = b * b - a * (centre @ centre - radius**2)
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 8.0)  # before a wall at 8
    points = directions * depth[..., None]
    expected = np.where((root > 0)[..., None], (points - centre) / radius * np.array([1, -1, -1]), [0, 0, 1])
    error = degrees(depth_to_normals(depth, CAMERA, window=3), expected)
    inside = root > 0.25 * root.max()
    assert error[inside].max() < 3 and np.median(error[inside]) < 0.5
    assert error[root < 0].max() < 0.1  # the wall, up to the outline of the sphere


def test_noise_averages_out() -> None:
    normal = np.array([0.3, -0.2, 1])
    noise = 1 + 0.003 * np.random.default_rng(0).standard_normal((HEIGHT, WIDTH))
    errors = [
        np.median(degrees(depth_to_normals(plane(normal) * noise, CAMERA, window=window), unit(normal)))
        for window in (3, 5, 9)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 1.5


def test_pixels_without_depth_have_no_normal_and_spoil_no_other() -> None:
    normal = np.array([0.5, 0.2, 1])
    depth = plane(normal)
    holes = np.random.default_rng(1).random(depth.shape) < 0.3
    depth[holes] = np.random.default_rng(2).choice([0, -1, np.nan, np.inf, -np.inf], holes.sum())
    found = depth_to_normals(depth, CAMERA)
    assert not found[holes].any()
    told = np.linalg.norm(found, axis=-1) > 0
    assert told[~holes].mean() > 0.999 and degrees(found[told], unit(normal)).max() < 0.1
    lonely = np.zeros((9, 9))
    lonely[4, 2:7] = 1.0  # a line of pixels does not say how it is tilted
    assert not depth_to_normals(lonely).any() and not depth_to_normals(np.zeros((3, 3))).any()


def test_without_a_camera_the_usual_one_is_meant() -> None:
    camera = Camera.usual(WIDTH, HEIGHT)
    assert np.degrees(2 * np.arctan(WIDTH / 2 / camera.fx)) == pytest.approx(55) and camera.fx == camera.fy
    normal = np.array([0.2, 0.3, 1])
    found = depth_to_normals(plane(normal, camera=camera))
    assert found == pytest.approx(np.broadcast_to(unit(normal), found.shape), abs=1e-5)


def test_bad_arguments_are_named() -> None:
    for window in (1, 4):
        with pytest.raises(ValueError, match="window"):
            depth_to_normals(np.ones((5, 5)), window=window)
    with pytest.raises(ValueError, match="shape"):
        depth_to_normals(np.ones((5, 5, 3)))
    with pytest.raises(ValueError, match="focal"):
        Camera(0, 1, 2, 3)
