"""Stored pairs to examples: the published crop, and modalities that the project knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from one_peace.data.decoding import PairDecoder
from one_peace.data.loading import LoadedBatch
from one_peace.data.pairs import DataRecipe
from one_peace.data.prefetch import _pack, _unpack
from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import MissingExtraError
from one_peace.media.augmentation import random_crop
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.image import ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def text() -> TextProcessor:
    return TextProcessor(TextConfig(vocab_size=300), Tokenizer(train_tokenizer([" a thing"] * 4, 300)))


def test_a_crop_keeps_the_published_share_of_the_area_and_sides() -> None:
    generator = Generator().manual_seed(0)
    boxes = [random_crop(400, 300, (0.9, 1.0), generator) for _ in range(300)]
    sides = np.array([(right - left, lower - upper) for left, upper, right, lower in boxes])
    places = np.array([(left, upper, 400 - right, 300 - lower) for left, upper, right, lower in boxes])
    assert places.min() == 0 and len(set(map(tuple, places.tolist()))) > 100
    shares = sides.prod(axis=1) / (400 * 300)
    assert 0.895 < shares.min() < 0.92 and 0.97 < shares.max() <= 1.0
    assert ((sides[:, 0] / sides[:, 1] > 0.74) & (sides[:, 0] / sides[:, 1] < 1.34)).all()


@pytest.mark.parametrize(("width", "height", "sides"), [(1000, 10, (13, 10)), (10, 1000, (10, 13)), (1, 1, (1, 1))])
def test_where_no_crop_fits_it_is_the_middle(width: int, height: int, sides: tuple[int, int]) -> None:
    left, upper, right, lower = random_crop(width, height, (0.9, 1.0), Generator())
    assert (right - left, lower - upper) == sides
    assert abs(left - (width - right)) <= 1 and abs(upper - (height - lower)) <= 1


def test_a_picture_is_cropped_and_not_flipped(text: TextProcessor) -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    stored = BytesIO()
    Image.fromarray(np.stack([ramp] * 3, 2)).save(stored, "PNG")
    decoder = PairDecoder(text, "image", ImageProcessor(ImageConfig(32, 2, 2), (0.5, 0.6)), 0.0)
    seen = [
        decoder(RawPair("", "a thing", stored.getvalue()), Generator().manual_seed(n))[1]["pixels"] for n in range(8)
    ]
    assert all(pixels.shape == (3, 32, 32) for pixels in seen)
    assert all(pixels[0, 0, -1] > pixels[0, 0, 0] for pixels in seen), "left is left"
    assert len({pixels.numpy().tobytes() for pixels in seen}) > 4
    whole = decoder.partner(stored.getvalue())["pixels"]
    assert all(pixels[0].max() - pixels[0].min() < 0.9 * (whole[0].max() - whole[0].min()) for pixels in seen)


@pytest.mark.parametrize("crop", [(0.9,), (0.0, 1.0), (1.0, 0.9), (0.5, 1.5)])
def test_wrong_crops(crop: Any) -> None:
    with pytest.raises(ValueError, match=r"data.crop: two shares of the area"):
        DataRecipe(crop=crop)


class Cloud(Processor):
    """Points, with colours in some files: tensors of any shape, and keys that not every example has."""

    def __call__(self, source: Any) -> Example:
        with np.load(source if isinstance(source, Path) else BytesIO(source)) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}

    def length(self, example: Example) -> int:
        return example["points"].shape[1]

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        raise NotImplementedError

    def mask(self, example: Example, ratio: float, generator: Generator, avoid: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def vary(self, loaded: Any, generator: Generator, strength: float) -> Example:
        noise = strength * torch.randn(loaded["points"].shape, generator=generator)
        return {**loaded, "points": loaded["points"] + noise}


def cloud(points: int, **more: Any) -> bytes:
    out = BytesIO()
    values: Mapping[str, Any] = {"points": np.arange(3 * points, dtype=np.float32).reshape(3, points), **more}
    np.savez(out, **values)
    return out.getvalue()


def test_another_modality_is_read_and_augmented_by_its_own_processor(text: TextProcessor, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(cloud(4))
    plain, augmented = (PairDecoder(text, "cloud", Cloud(), strength) for strength in (0.0, 1.0))
    expected = torch.arange(12, dtype=torch.float32).view(3, 4)
    for source in (path, cloud(4)):
        pair = plain(RawPair("", "a thing", source), Generator())
        assert torch.equal(pair[1]["points"], expected) and plain.length(pair)[1] == 4
    one, two = (augmented(RawPair("", "a thing", path), Generator().manual_seed(n))[1]["points"] for n in (0, 1))
    assert not torch.equal(one, two) and one.shape == (3, 4)


@pytest.mark.parametrize("content", [b"", b"no archive", cloud(4)[:200]])
def test_whatever_a_foreign_decoder_raises_is_one_unusable_pair(text: TextProcessor, content: bytes) -> None:
    with pytest.raises(UnusablePair, match="row 7") as caught:
        PairDecoder(text, "cloud", Cloud())(RawPair("row 7", "a thing", content), Generator())
    assert caught.value.reason == "unreadable cloud"


@pytest.mark.parametrize(
    "name",
    ["x" * 5000, "x/" * 50_000, "a\0.npz", "\ud800.npz", "gone.npz"],
    ids=["too long", "too deep", "with a zero", "no character", "gone"],
)
def test_a_name_that_no_file_has_is_one_unusable_pair(text: TextProcessor, tmp_path: Path, name: str) -> None:
    raw = RawPair(f"entry 2 ({name})", "a thing", tmp_path / name)
    for decoder in (PairDecoder(text, "cloud", Cloud()), PairDecoder(text, "image", ImageProcessor(ImageConfig()))):
        with pytest.raises(UnusablePair, match=r"^entry 2 \((.|\0)* does not exist$") as caught:
            decoder(raw, Generator())
        assert caught.value.reason == "missing file" and len(str(caught.value)) < 1300


def test_a_missing_package_is_no_damaged_file(text: TextProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Cloud, source: Any) -> Any:
        raise MissingExtraError("reading clouds", "clouds")

    monkeypatch.setattr(Cloud, "load", load)
    with pytest.raises(MissingExtraError):
        PairDecoder(text, "cloud", Cloud())(RawPair("row 7", "a thing", b""), Generator())


def test_examples_of_any_shape_come_back_from_a_worker_as_they_were() -> None:
    tokens = [{"tokens": torch.arange(n + 2)} for n in range(3)]
    partners: list[Example] = [
        {"points": torch.rand(3, 4), "rate": torch.tensor(7)},
        {"points": torch.rand(3, 2), "colours": torch.zeros(0, 3, dtype=torch.uint8)},
        {"points": torch.rand(3, 4)},
    ]
    pairs = list(zip(tokens, partners, strict=True))
    again = _unpack(_pack(LoadedBatch(pairs, [(1, 2)] * 3, [("why", "which")])))
    assert again.lengths == [(1, 2)] * 3 and again.failures == [("why", "which")]
    for old, new in zip(pairs, again.pairs, strict=True):
        for before, after in zip(old, new, strict=True):
            assert before.keys() == after.keys()
            assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
