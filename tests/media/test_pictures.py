from __future__ import annotations

import io
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.torch import load_file

from one_peace.errors import InputError
from one_peace.media import pictures
from one_peace.media.pictures import (
    center_crop,
    decode_picture,
    grounding_boxes,
    image_tensor,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "one_peace"
CASES = ("wide", "tall", "up", "exact")
BOMB = 60_000


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 24, height: int = 16) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def png_header(width: int, height: int, colours: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(bytes(1000))
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, torch.Tensor], dict]:
    meta = json.loads((GOLDEN / "fixture8_image.json").read_text())["meta"]
    return load_file(GOLDEN / "fixture8_image.safetensors"), meta


@pytest.mark.parametrize("case", CASES)
def test_preprocessing_is_the_published_one(case: str, golden: tuple[dict[str, torch.Tensor], dict]) -> None:
    tensors, meta = golden
    image = decode_picture(tensors[f"in.{case}"].numpy())
    size = tensors[f"out.{case}"].shape[-1]
    torch.testing.assert_close(image_tensor(image, size), tensors[f"out.{case}"], rtol=0, atol=1e-6)
    cropped = image_tensor(center_crop(image, size), size)
    torch.testing.assert_close(cropped, tensors[f"out.centercrop_{case}"], rtol=0, atol=1e-6)
    torch.testing.assert_close(image_tensor(image, size), tensors[f"out.refcoco_image_{case}"], rtol=0, atol=1e-6)
    boxes = grounding_boxes(tensors[f"in.refcoco_boxes_{case}"], *image.size)
    torch.testing.assert_close(boxes, tensors[f"out.refcoco_boxes_{case}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sides", [(1, 2_000_000), (2_000_000, 1)])
def test_of_a_picture_like_a_thread_the_middle_is_taken(sides: tuple[int, int]) -> None:
    """Resized whole by its shorter side it would have a thousand million pixels."""
    picture = Image.new("RGB", sides, "red")
    picture.paste("white", tuple(side // 4 for side in sides) + tuple(side - side // 4 for side in sides))
    assert center_crop(picture, 64).getcolors() == [(64 * 64, (255, 255, 255))]


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    pixels = gradient()
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "a cow #1 100%.png"
    path.write_bytes(data)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [
        path,
        str(path),
        path.as_uri(),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        pixels,
    ]
    sources += [
        Image.fromarray(pixels),
        torch.from_numpy(pixels),
        channels_first,
        channels_first.float() / 255,
    ]
    sources += [pixels.astype(np.float64) / 255, pixels.astype(np.int64), pixels.astype(np.uint16) * 257]
    sources += [pixels.astype(">i4"), (pixels.astype(np.uint16) * 257).astype(">u2"), (pixels / 255).astype(">f4")]
    sources += [torch.complex(torch.zeros(pixels.shape), torch.from_numpy(pixels / -255.0).float()).conj().imag]
    sources += [pixels[:, ::-1][:, ::-1], channels_first.bfloat16().div(255).mul(255).round().to(torch.uint8)]
    with open(path, "rb") as opened:
        for source in [*sources, opened]:
            image = decode_picture(source)
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), pixels), source


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO"])
def test_formats(kind: str) -> None:
    try:
        data = encoded(Image.fromarray(gradient(32, 32)), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    image = decode_picture(data)
    assert (image.mode, image.size) == ("RGB", (32, 32))


def test_exif_orientation_is_applied_to_files_and_not_to_pil_images() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = encoded(Image.fromarray(gradient(24, 16)), "PNG", exif=exif)
    assert decode_picture(data).size == (16, 24)
    assert np.array_equal(np.asarray(decode_picture(data)), np.rot90(gradient(24, 16), -1))
    assert decode_picture(Image.open(io.BytesIO(data))).size == (24, 16)


def test_transparency_shows_white_and_opaque_alpha_changes_nothing() -> None:
    pixels = gradient()
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    assert np.array_equal(np.asarray(decode_picture(opaque)), pixels)
    clear = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    assert (np.asarray(decode_picture(encoded(Image.fromarray(clear)))) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert decode_picture(encoded(palette)).getpixel((0, 0)) == (10, 20, 30)
    assert decode_picture(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    keyed = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert decode_picture(keyed).getpixel((0, 0)) == (255, 255, 255)
    for mode in ("LA", "La"):
        assert decode_picture(Image.new("LA", (2, 2), (7, 0)).convert(mode)).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[1234, 30000]], np.uint16))
    deep.info["transparency"] = 1234  # as of a file with that chunk
    assert [decode_picture(deep).getpixel((x, 0)) for x in (0, 1)] == [(255,) * 3, (117,) * 3]


def test_transparency_is_composited_exactly() -> None:
    values, alpha = np.meshgrid(np.arange(256), np.arange(256))
    every = Image.fromarray(np.stack([values, 255 - values, values, alpha], axis=-1).astype(np.uint8))
    white = Image.new("RGBA", every.size, (255, 255, 255, 255))
    expected = np.asarray(Image.alpha_composite(white, every).convert("RGB"))
    assert np.array_equal(np.asarray(decode_picture(every)), expected)


def test_files_that_are_large_together_are_decoded_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (100, 40)))
    monkeypatch.setattr(pictures, "_ROOM", pictures._Room(10_000))
    load, at_once, most, pair = pictures._load, 0, 0, threading.Barrier(2)

    def watched(*given: Any) -> Image.Image:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        pair.wait(60)  # there is room for two of them at once
        time.sleep(2e-3)  # a third one would come meanwhile
        try:
            return load(*given)
        finally:
            at_once -= 1

    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(pictures, "_load", watched)
        assert [image.size for image in pool.map(decode_picture, [data] * 16)] == [(100, 40)] * 16
    assert most == 2
    assert decode_picture(encoded(Image.new("RGB", (200, 100)))).size == (200, 100)  # larger than the room


def test_other_modes() -> None:
    assert decode_picture(encoded(Image.new("CMYK", (3, 3), (0, 0, 0, 0)), "JPEG")).getpixel((1, 1)) == (255,) * 3
    assert decode_picture(Image.new("1", (3, 3), 1)).getpixel((0, 0)) == (255,) * 3
    assert decode_picture(Image.new("F", (3, 3), 0.5)).getpixel((0, 0)) == (128,) * 3
    deep = np.array([[0, 32896, 65535]], np.uint16)
    expected = [[[0] * 3, [128] * 3, [255] * 3]]
    assert np.asarray(decode_picture(encoded(Image.fromarray(deep)))).tolist() == expected
    assert np.asarray(decode_picture(encoded(Image.fromarray(deep.astype(np.int32), "I"), "TIFF"))).tolist() == expected
    assert np.asarray(decode_picture(deep)).tolist() == expected
    dark = np.full((3, 3), 255, ">u2")  # a 257th of full scale, however its bytes are ordered
    assert np.asarray(decode_picture(dark)).max() == np.asarray(decode_picture(dark.astype("<u2"))).max() == 1


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_picture(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_extreme_shapes_resize(shape: tuple[int, int]) -> None:
    tensor = image_tensor(decode_picture(np.zeros((*shape, 3), np.uint8)), 32)
    assert tensor.shape == (3, 32, 32) and tensor.dtype == torch.float32


def test_a_bomb_is_refused_before_decoding() -> None:
    for width, height in ((BOMB, BOMB), (2**31 - 1, 2**31 - 1), (14_000, 14_000)):
        with pytest.raises(InputError, match="pixels"):
            decode_picture(png_header(width, height))
    gif = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(InputError, match="pixels"):
        decode_picture(bytes(gif))
    small = encoded(Image.new("RGB", (50, 50)))
    with pytest.raises(InputError, match="50 x 50 pixels"):
        decode_picture(small, max_pixels=2499)
    assert decode_picture(small, max_pixels=2500).size == (50, 50)
    with pytest.raises(InputError, match="pixels"):
        decode_picture(np.broadcast_to(np.uint8(0), (BOMB, BOMB, 3)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InputError):
        decode_picture(data[: int(part * len(data))])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a poem about a cow\n" * 9, "it is text"),
        ("ein Gedicht \N{COW}".encode(), "it is text"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", r"sound file \(WAV\)"),
        (b"\xff\xfb\x90\x00" + bytes(40), r"sound file \(MP3\)"),
        (b"\x1a\x45\xdf\xa3\x01\x00" + bytes(40), "video or sound file"),
        (bytes(range(256)), "unknown format"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cow.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        decode_picture(path)
    assert caught.value.source == str(path) and str(path) in str(caught.value)
    with pytest.raises(InputError):
        decode_picture(data)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "expected a picture"),
        (7, "expected a picture"),
        ([[1, 2]], "expected a picture"),
        ((np.zeros(9), 16000), "expected a picture"),
        (np.zeros((2, 8, 8, 3), np.uint8), "batch"),
        (np.zeros(8, np.uint8), "rank 1"),
        (np.array(3, np.uint8), "rank 0"),
        (np.zeros((3, 8, 8), np.uint8), "transpose"),
        (np.zeros((8, 8, 2), np.uint8), "2 channels"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (np.zeros((8, 0), np.float32), "empty"),
        (np.full((8, 8), np.nan, np.float32), "NaN"),
        (np.full((8, 8, 3), 200.0), r"expected \[0, 1\]"),
        (np.full((8, 8, 3), -3), "0..255"),
        (np.zeros((8, 8), complex), "complex"),
        (np.full((8, 8), "cow"), "expected uint8"),
        (torch.zeros(3, 8, 8, device="meta"), "no plain values"),
        (torch.zeros(8, 8).to_sparse(), "no plain values"),
        (Image.new("RGB", (0, 5)), "empty"),
        (Image.new("F", (5, 5), 9.0), r"expected \[0, 1\]"),
    ],
)
def test_wrong_kinds_of_input(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_picture(source)


def test_a_palette_that_is_missing_and_transparency_of_another_mode_are_input_errors() -> None:
    with pytest.raises(InputError, match="from P to RGB"):
        decode_picture(png_header(5, 5, colours=3))
    black = Image.new("1", (5, 5))
    black.info["transparency"] = bytes(16)  # as `convert` leaves it there
    with pytest.raises(InputError, match="from 1 to RGB"):
        decode_picture(black)


def test_a_closed_pil_image_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "cow.png"
    path.write_bytes(encoded(Image.fromarray(gradient())))
    image = Image.open(path)
    image.close()
    with pytest.raises(InputError):
        decode_picture(image)


quick = settings(max_examples=60)


def picture_or_input_error(source: object) -> None:
    try:
        image = decode_picture(source, max_pixels=1_000_000)
    except InputError:
        return
    assert image.mode == "RGB" and image.width > 0 and image.height > 0


@quick
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    picture_or_input_error(data)


BASES = [
    encoded(Image.fromarray(gradient()), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM")
]


@quick
@given(
    st.sampled_from(BASES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 99),
)
def test_any_damage_to_a_file(base: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(base)
    for place, value in damage:
        data[place % len(data)] = value
    picture_or_input_error(bytes(data[: len(data) - cut]))


@quick
@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_any_array(array: np.ndarray) -> None:
    picture_or_input_error(array)
    try:
        tensor = torch.from_numpy(array)
    except (TypeError, ValueError):
        return
    picture_or_input_error(tensor)
