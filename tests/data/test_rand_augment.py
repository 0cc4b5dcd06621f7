"""The operations against the reference pictures are in `test_parity.py`; here is what must hold for any picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from one_peace.data import rand_augment as ra

RNG = np.random.default_rng(0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10_000))
def test_any_picture_keeps_its_form_and_its_seed(width: int, height: int, seed: int) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    once, again = (ra.augment_for_reasoning(image, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert once.size == image.size and once.mode == "RGB"
    assert np.array_equal(np.asarray(once), np.asarray(again))


@pytest.mark.parametrize("operation", ra.OPERATIONS, ids=lambda f: f.__name__)
def test_the_original_is_not_touched(operation: object) -> None:
    pixels = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    before = pixels.copy()
    operation(pixels, 1)
    assert np.array_equal(pixels, before)


def test_moves_by_whole_pixels_are_exact() -> None:
    pixels = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    moved = ra.translate_x(pixels, 1)
    assert np.array_equal(moved[:, 7:], pixels[:, :-7]) and (moved[:, :7] == ra.FILL).all()
    assert np.array_equal(ra.translate_y(pixels, -1)[:-7], pixels[7:])


def test_turning_there_and_back_keeps_the_middle() -> None:
    smooth = np.asarray(
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    )
    back = ra.rotate(ra.rotate(smooth, 1), -1)
    assert np.abs(back[24:40, 24:40].astype(int) - smooth[24:40, 24:40]).max() <= 6
    assert np.abs(ra.rotate(smooth, 1)[24:40, 24:40].astype(int) - smooth[24:40, 24:40]).max() > 6


def test_sharpening_stops_at_white() -> None:
    pixels = np.full((5, 5, 3), 100, np.uint8)
    pixels[2, 2] = 255
    assert (ra.sharpness(pixels, 1)[2, 2] == 255).all()


def test_most_operations_are_applied_half_of_the_time() -> None:
    image = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    same = sum(
        np.array_equal(np.asarray(ra.rand_augment(image, torch.Generator().manual_seed(seed))), np.asarray(image))
        for seed in range(400)
    )
    # neither applied, or only the identity: (1/2 + 1/2 * 1/9) squared
    assert abs(same / 400 - (5 / 9) ** 2) < 0.08
