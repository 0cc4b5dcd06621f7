"""Depth and normal maps: every form they are stored in, what has no value, what the model sees, mirrors, training."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.maps import write_depth_png
from one_peace.media.pictures import CLIP
from one_peace.modalities import get_modality
from one_peace.modalities.depth import DepthConfig, DepthProcessor, nearness, read_depth
from one_peace.modalities.frames import FrameConfig, FrameProcessor
from one_peace.modalities.image import ImageAdapter, ImageConfig
from one_peace.modalities.normals import NormalsConfig, NormalsProcessor, encode_normals, read_normals

DEPTH = DepthConfig(64, 4, 4)
NORMALS = NormalsConfig(64, 4, 4)


def metres(height: int = 40, width: int = 60) -> np.ndarray:
    """A slope, from 1 m on the left to 4 m on the right."""
    return np.broadcast_to(np.linspace(1, 4, width, dtype=np.float32), (height, width)).copy()


def leaning(x: float, y: float = 0.0) -> np.ndarray:
    """A map of one normal, (40, 60, 3)."""
    vector = np.array([x, y, (1 - x * x - y * y) ** 0.5], np.float32)
    return np.broadcast_to(vector, (40, 60, 3)).copy()


def shown(pixels: Tensor) -> Tensor:
    """Normalised pixels back in [0, 1]."""
    return pixels * torch.tensor(CLIP[1]).view(3, 1, 1) + torch.tensor(CLIP[0]).view(3, 1, 1)


def stored(values: np.ndarray, form: str, **arrays: np.ndarray) -> bytes:
    made = io.BytesIO()
    if form == "npy":
        np.save(made, values)
    elif form == "npz":
        np.savez_compressed(made, **arrays)
    elif form == "pfm":
        head = b"PF" if values.ndim == 3 else b"Pf"
        made.write(
            head + f"\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes()
        )
    else:
        Image.fromarray(values).save(made, form)
    return made.getvalue()


# --- reading ----------------------------------------------------------------------------------------------------


def test_every_form_of_a_depth_map_is_the_same_map(tmp_path: Path) -> None:
    depth = metres()
    write_depth_png(depth, tmp_path / "wall.depth.png")
    np.save(tmp_path / "wall.disparity.npy", 1 / depth)
    millimetres = np.rint(1000 * depth).astype(np.uint16)
    forms: list[Any] = [
        depth,
        torch.from_numpy(depth)[None],
        depth[..., None].astype(np.float64),
        stored(depth, "npy"),
        stored(depth, "pfm"),
        stored(depth, "TIFF"),
        stored(depth, "npz", depth=depth, other=depth[:3]),
        stored(depth, "npz", disparity=1 / depth),
        stored(depth, "npz", whatever=depth),
        stored(millimetres, "PNG"),
        Image.fromarray(millimetres),
        tmp_path / "wall.depth.png",
        tmp_path / "wall.disparity.npy",
    ]
    seen = [DepthProcessor(DEPTH)(form)["pixels"] for form in forms]
    for pixels in seen[1:]:
        assert (pixels - seen[0]).abs().max() < 2e-2
    disparity = DepthProcessor(dataclasses.replace(DEPTH, disparity=True))(1 / depth)["pixels"]
    assert torch.allclose(disparity, seen[0], atol=1e-4)
    assert read_depth(tmp_path / "wall.depth.png") == pytest.approx(1000 * depth, abs=0.51)


def test_every_form_of_a_map_of_normals_is_the_same_map() -> None:
    normals = leaning(0.6, -0.48)
    forms: list[Any] = [
        normals,
        3 * normals,  # of any length
        torch.from_numpy(normals).permute(2, 0, 1),
        stored(normals, "npy"),
        stored(normals, "pfm"),
        stored(normals, "npz", normals=normals, depth=metres()),
        encode_normals(normals),
        ((normals + 1) / 2 * 65535).astype(np.uint16),
        np.rint(normals * 127).astype(np.int8),
        np.rint(normals * 32767).astype(np.int16),
        stored(encode_normals(normals), "PNG"),
        Image.fromarray(encode_normals(normals)),
    ]
    for form in forms:
        assert read_normals(form) == pytest.approx(normals, abs=0.01)
        assert np.linalg.norm(read_normals(form), axis=2) == pytest.approx(1, abs=1e-5)
    camera = normals * np.array([1, -1, -1])
    assert read_normals(camera, axes=(1, -1, -1)) == pytest.approx(normals)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"", "empty"),
        (b"no map at all", "no map we can read"),
        (b"v/1\x01" + bytes(20), "OpenEXR"),
        (stored(metres(), "npy")[:200], "damaged"),
        (stored(metres(), "npy").replace(b"(40, 60)", b"(4\xff\xff 60)"), "damaged"),
        (stored(metres(), "npz", a=metres(), b=metres()), "a, b; one is to be named depth"),
        (stored(metres(), "npz", a=metres())[:-30], "damaged"),
        (stored(metres(), "pfm")[:-1], "truncated"),
        (b"Pf\n-3 4\n1\n", "-3 x 4"),
        (b"Pf\n-3 -4\n1\n" + bytes(48), "-3 x -4"),
        (b"Pf\n1000000 1000000\n1\n", "1000000 x 1000000"),
        (stored(np.array([object()]), "npy"), "objects"),
        (np.zeros((4, 4)), "no pixel with a depth"),
        (np.full((4, 4), np.nan), "no pixel with a depth"),
        (np.full((4, 4), -np.inf), "no pixel with a depth"),
        (np.ones((4, 4), complex), "complex"),
        (np.ones((2, 4, 4, 1)), "shape"),
        (np.ones((0, 4)), "shape"),
        (np.ones((9, 9, 7)), "7 channels"),
        (np.random.default_rng(0).random((4, 4, 3)), "coloured rendering"),
        (torch.ones(4, 4, device="meta"), "no plain values"),
        (7, "expected a map"),
    ],
)
def test_what_is_no_depth_map_is_refused(source: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        read_depth(source)
    assert "object at" not in caught.value.problem


@pytest.mark.parametrize(
    "source",
    [metres(), np.zeros((4, 4, 3)), np.full((4, 4, 3), 128, np.uint8), b"x", Image.new("LA", (4, 4), (200, 255))],
)
def test_what_is_no_map_of_normals_is_refused(source: Any) -> None:
    with pytest.raises(InputError):
        read_normals(source)


def test_whole_numbers_of_unknown_range_are_no_normals() -> None:
    with pytest.raises(InputError, match="int64 values.*pass uint8"):
        read_normals(encode_normals(leaning(0.6)).astype(np.int64))


def test_headers_that_promise_too_much_are_refused_before_they_are_believed() -> None:
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": "<f8", "fortran_order": False, "shape": (1 << 20, 1 << 20)})
    with pytest.raises(InputError, match="more than"):
        read_depth(made.getvalue())


# --- what the model sees ----------------------------------------------------------------------------------------


def test_near_is_bright_whatever_the_unit_and_outliers_do_not_count() -> None:
    depth = metres()
    near, known = nearness(depth)
    assert near[:, 0].min() == 1 and near[:, -1].max() == 0 and known.all()
    assert (near.diff(dim=1) <= 0).all()
    torch.testing.assert_close(nearness(1000 * depth)[0], near, atol=1e-5, rtol=0)
    depth[3, 3], depth[4, 4] = 1e-3, 1e6  # two flying pixels
    assert (nearness(depth)[0] - near).abs().mean() < 0.02
    assert nearness(np.full((4, 4), 2.0, np.float32))[0].unique().tolist() == [0.5]


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_what_a_masked_array_hides_is_not_there(dtype: type) -> None:
    values, hidden = (metres() * 1000).astype(dtype), metres() > 3
    hidden_by_mask = read_depth(np.ma.masked_array(values, hidden))
    np.testing.assert_array_equal(hidden_by_mask, read_depth(np.where(hidden, 0, values)))
    faces = np.where(hidden[..., None], leaning(0.0), leaning(0.6))
    seen = read_normals(
        np.ma.masked_array(encode_normals(faces) if dtype == np.uint16 else faces, np.stack([hidden] * 3, 2))
    )
    assert not seen[hidden].any() and np.allclose(seen[~hidden], leaning(0.6)[~hidden], atol=0.01)


def test_pixels_without_depth_take_no_part() -> None:
    depth = metres()
    whole = shown(DepthProcessor(DEPTH)(depth)["pixels"])
    depth[10:30, 20:40:3] = 0  # a third of the columns in the middle
    depth[:, :15] = np.nan
    holed = shown(DepthProcessor(DEPTH)(depth)["pixels"])
    torch.testing.assert_close(holed[0], holed[2], atol=1e-5, rtol=0)
    assert holed[:, :, :14].abs().max() < 1e-6  # nothing known: black
    right = slice(40, 64)
    order = holed[0, 32, right].diff()
    assert (order <= 1e-6).all() and (whole[0, 32, right].diff() <= 1e-6).all()
    assert (holed[0, 25:40, 22:42].diff(dim=1) <= 0.02).all()  # no stripes of black in it


def test_normals_are_shown_as_usual_and_stay_unit_vectors() -> None:
    facing = shown(NormalsProcessor(NORMALS)(leaning(0.0))["pixels"])
    assert facing.mean(dim=(1, 2)).tolist() == pytest.approx([0.5, 0.5, 1.0], abs=1e-5)
    step = np.concatenate([leaning(0.7)[:, :31], leaning(-0.7)[:, 31:]], axis=1)
    step[:20, :10] = 0
    pixels = shown(NormalsProcessor(NORMALS)(step)["pixels"]) * 2 - 1
    lengths = pixels.norm(dim=0)
    assert lengths[:29, :9].max() < 1e-5  # no normal there: middle grey
    assert (lengths[40:] - 1).abs().max() < 1e-4


def test_a_mirror_turns_the_vectors() -> None:
    """A map that leans to the right on its left half is, mirrored, one that leans to the left on its right half."""
    normals = np.concatenate([leaning(0.6)[:, :30], leaning(0.0, 0.6)[:, 30:]], axis=1)
    mirrored = normals[:, ::-1] * np.array([-1, 1, 1], np.float32)
    kind = get_modality("normals")
    (frame,), (expected,) = kind.frames(normals, 1), kind.frames(mirrored, 1)
    torch.testing.assert_close(kind.mirror(frame), expected)
    depth = get_modality("depth")
    (frame,), (expected,) = depth.frames(metres(), 1), depth.frames(metres()[:, ::-1], 1)
    torch.testing.assert_close(depth.mirror(frame), expected)


def test_training_sees_mirrored_scenes_and_at_strength_0_the_whole() -> None:
    processor = NormalsProcessor(NORMALS)
    loaded = processor.load(leaning(0.6))
    reds = {
        round(shown(processor.vary(loaded, torch.Generator().manual_seed(n), 1.0)["pixels"])[0].mean().item(), 1)
        for n in range(8)
    }
    assert reds == {0.2, 0.8}  # x = -.6 and .6
    for made, source in ((processor, leaning(0.6)), (DepthProcessor(DEPTH), metres())):
        same = made.vary(made.load(source), torch.Generator(), 0.0)["pixels"]
        assert (same - made(source)["pixels"]).abs().mean() < 0.03


def test_the_shared_tower_takes_the_same_maps_in_the_same_form() -> None:
    config = FrameConfig(28, 3, crop=True)
    depth = FrameProcessor(get_modality("depth"), config)
    batch = depth.collate([depth(metres()), depth(stored(metres(), "npy"))])
    assert batch["frames"].shape == (2, 1, 3, 28, 28)
    normals = FrameProcessor(get_modality("normals"), config)
    loaded = normals.load(leaning(0.6))
    reds = {
        round(shown(normals.vary(loaded, torch.Generator().manual_seed(n), 1.0)["frames"][0])[0].mean().item(), 1)
        for n in range(8)
    }
    assert reds == {0.2, 0.8}
    with pytest.raises(TypeError, match="text has no form as pictures"):
        next(get_modality("text").frames("a wall", 1))


def test_thumbnails_show_near_in_red_and_far_in_blue() -> None:
    depth = metres()
    depth[:5] = 0
    picture = np.asarray(get_modality("depth").picture(depth))
    assert picture[20, 0].tolist() == [255, 0, 0] and picture[20, -1].tolist() == [0, 0, 255]
    assert not picture[:5].any()
    assert np.asarray(get_modality("normals").picture(leaning(0.0)))[0, 0].tolist() == [128, 128, 255]


def test_they_start_as_pictures() -> None:
    image = ImageAdapter(ImageConfig(64, 4, 4), 32, 2, 1)
    fresh = get_modality("depth").adapter(DEPTH, 32, 2, 1)
    values = fresh.start_from(image)
    assert {"cls"} == set(dict(fresh.named_parameters())) - set(values)
    larger = ImageAdapter(ImageConfig(128, 8, 8), 32, 2, 1)
    assert {name for name in fresh.start_from(larger)} == {n for n in values if n.startswith("patches.")}


@pytest.mark.parametrize("axes", [(1, 1), (1, 1, 0), (2, 1, 1)])
def test_axes_are_signs(axes: Any) -> None:
    with pytest.raises(ValueError, match="three signs"):
        NormalsConfig(axes=axes)


def test_search_tells_maps_from_pictures_by_both_endings(tmp_path: Path) -> None:
    """Where the model knows depth; elsewhere a depth map in a PNG is a picture."""
    from one_peace.search.file_kinds import kind_of, kinds_for

    write_depth_png(metres(), tmp_path / "a.wall.depth.png")
    kinds = kinds_for(("text", "image", "depth", "normals"))
    names = ("a.wall.depth.png", "a.png", "b.normals.npy", "B.DISPARITY.PNG", "b.npy", "depth.png")
    found = [kind_of(tmp_path / name, kinds) for name in names]
    assert found == ["depth", "image", "normals", "depth", None, "image"]
    assert kind_of(tmp_path / "a.wall.depth.png", kinds_for(("text", "image"))) == "image"
    content = kinds["depth"].read(tmp_path / "a.wall.depth.png", ("depth",))
    assert content.pieces[0].branch == "depth" and content.thumbnail is not None
    with Image.open(io.BytesIO(content.thumbnail)) as picture:
        red, _, blue = picture.getpixel((2, 20))  # type: ignore[misc]
        assert red > 200 and blue < 60
