"""Pictures to codes and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from one_peace.checkpoints.vqgan_names import NAMES
from one_peace.errors import CheckpointError
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.loading import load_vqgan, save_vqgan
from one_peace.models.vqgan.model import Vqgan, picture_of, pixels_of
from one_peace.objectives.codes import code_divergence, code_loss

SMALL = VqganConfig(codes=16, code_width=8, width=32, multipliers=(1, 2), blocks=1, attention=(1,))


def small() -> Vqgan:
    torch.manual_seed(0)
    return Vqgan(SMALL)


def test_sizes_of_the_published_one() -> None:
    with torch.device("meta"):
        model = Vqgan(VqganConfig())
        assert model.decoder(torch.zeros(1, 256, 32, 32)).shape == (1, 3, 256, 256)
        assert model.code_scores(torch.zeros(1, 3, 128, 256)).shape == (1, 8192, 16, 32)


def test_a_few_steps_learn_a_picture() -> None:
    model, generator = small(), torch.Generator().manual_seed(0)
    pictures = torch.tensor([1.0, -1.0]).repeat(8)[None, None, None].expand(1, 3, 16, 16) * 0.8
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        reconstructed, logits = model(pictures, 1.0, generator)
        loss = code_loss(reconstructed, pictures, logits)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_unequal_use_of_codes_costs() -> None:
    assert float(code_divergence(torch.zeros(1, 16, 2, 2))) == pytest.approx(0, abs=1e-6)
    one = torch.zeros(1, 16, 2, 2)
    one[:, 3] = 100
    assert float(code_divergence(one)) == pytest.approx(torch.log(torch.tensor(16.0)).item(), rel=1e-4)


def test_saved_and_published_files(tmp_path: Path) -> None:
    model = small().eval()
    save_vqgan(model, tmp_path / "ours")
    published = {NAMES.to_official(name)[0]: tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": published | {"loss.logvar": torch.zeros(())}}, tmp_path / "last.ckpt")
    pictures = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    codes = model.encode(pictures)
    for path in (tmp_path / "ours", tmp_path / "last.ckpt"):
        loaded = load_vqgan(path)
        assert loaded.config == SMALL and torch.equal(loaded.encode(pictures), codes)
        torch.testing.assert_close(loaded.decode(codes), model.decode(codes))


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"state_dict": {"visual.proj": torch.zeros(2)}}, r"visual\.proj is no tensor of a Gumbel VQGAN"),
        ({"state_dict": [1]}, "holds no state dict"),
        ({1: torch.zeros(2)}, "1 is no tensor of a Gumbel VQGAN"),
    ],
)
def test_files_of_other_models_are_refused(state: object, problem: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=rf"other\.ckpt: .*{problem}"):
        load_vqgan(tmp_path / "other.ckpt")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    save_vqgan(small(), tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    known = config.read_text()
    for text, problem in (
        (known.replace('"codes": ', '"codes": 1'), "codebook.weight"),
        (known.replace('"width": ', '"width": 1073741824'), "config"),
        (known.replace('"blocks": ', '"blocks": 1000000'), r"blocks is 1000000\d, and the weights are \d+ tensors"),
        ("[1]", "config.json: must hold a JSON object"),
    ):
        config.write_text(text)
        with pytest.raises(CheckpointError, match=rf"{tmp_path}.*(?s:.*){problem}"):
            load_vqgan(tmp_path)
    config.write_text(known)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_vqgan(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors"):
        load_vqgan(tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_vqgan(tmp_path)


def test_pictures_in_and_out() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 128))
    pixels = pixels_of(image, 16)
    assert pixels.shape == (3, 16, 16) and pixels[0].max() == 1 and pixels[1].min() == -1
    assert pixels_of(Image.new("RGB", (1, 2_000_000)), 16).shape == (3, 16, 16)  # of a thread the middle
    shown = picture_of(torch.full((3, 4, 6), 1.7))
    assert shown.size == (6, 4) and shown.getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_is_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="2 x n"):
        model.encode(torch.zeros(1, 3, 15, 16))
    with pytest.raises(ValueError, match="codes are 0 to 15"):
        model.decode(torch.full((1, 2, 2), 16))
    with pytest.raises(ValueError, match="multiple of 32"):
        VqganConfig(width=48)
    with pytest.raises(ValueError, match="attention"):
        VqganConfig(attention=(4,))
    with pytest.raises(ValueError, match="'depth'"):
        VqganConfig.from_dict({"depth": 3})
