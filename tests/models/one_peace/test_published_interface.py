"""The README snippet of the published package, unchanged but for names of files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from one_peace.checkpoints.convert import convert
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder

SNIPPET = """
import torch
from one_peace.models import from_pretrained

device = "cuda" if torch.cuda.is_available() else "cpu"
model = from_pretrained("ONE-PEACE", device=device, dtype="float32")

# process raw data
src_tokens = model.process_text(["cow", "dog", "elephant"])
src_images = model.process_image(["assets/dog.JPEG", "assets/elephant.JPEG"])
src_audios, audio_padding_masks = model.process_audio(["assets/cow.flac", "assets/dog.flac"])

with torch.no_grad():
    # extract normalized features
    text_features = model.extract_text_features(src_tokens)
    image_features = model.extract_image_features(src_images)
    audio_features = model.extract_audio_features(src_audios, audio_padding_masks)

    # compute similarity
    i2t_similarity = image_features @ text_features.T
    a2t_similarity = audio_features @ text_features.T

print("Image-to-text similarities:", i2t_similarity)
print("Audio-to-text similarities:", a2t_similarity)
"""
CONFIG = {
    "name": "small",
    "width": 64,
    "layers": 2,
    "heads": 1,
    "ffn_width": 128,
    "layer_scale": 0.1,
    "modalities": {
        "text": {"vocab_size": 270},
        "image": {"image_size": 64, "grid": 4, "bias_grid": 4},
        "audio": {
            "convs": [[16, 10, 5], *[[16, 3, 2]] * 4, *[[16, 2, 2]] * 2],
            "position_depth": 2,
            "position_width": 38,
            "position_groups": 4,
        },
    },
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `one-peace.pt` in official form, its vocabulary, and the assets of the README."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    config = OnePeaceConfig.from_dict(CONFIG)
    encoder = OnePeaceEncoder(config)
    OnePeace(encoder, {}).save_pretrained(folder / "ours")
    convert(folder / "ours", folder / "one-peace.pt")
    table = train_tokenizer(["a cow, a dog, an elephant"], 270)
    Tokenizer(table).save(folder / "one-peace.tokenizer.json")
    (folder / "assets").mkdir()
    random = np.random.default_rng(0)
    for name in ("dog", "elephant"):
        picture = Image.fromarray(random.integers(0, 256, (48, 80, 3), dtype=np.uint8))
        picture.save(folder / "assets" / f"{name}.JPEG")
    for name, seconds in (("cow", 1.5), ("dog", 2.25)):
        sound = random.uniform(-0.5, 0.5, int(22050 * seconds))
        soundfile.write(folder / "assets" / f"{name}.flac", sound, 22050)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bf16", "fp16"])
def test_snippet(published: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.chdir(published)
    monkeypatch.setenv("ONE_PEACE_CACHE", str(published))  # where the download of "ONE-PEACE" would lie
    found: dict = {}
    exec(SNIPPET.replace("float32", dtype).replace('"cuda" if torch.cuda.is_available() else "cpu"', '"cpu"'), found)
    expected = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    for name, rows in (("text", 3), ("image", 2), ("audio", 2)):
        vectors = found[f"{name}_features"]
        assert vectors.shape == (rows, 64) and vectors.dtype == expected
        assert torch.allclose(vectors.float().norm(dim=1), torch.ones(rows), atol=1e-2)
    assert found["src_tokens"].dtype == torch.int64, "ids stay whole numbers in every dtype"
    assert found["src_images"].dtype == found["src_audios"].dtype == expected
    assert found["i2t_similarity"].shape == found["a2t_similarity"].shape == (2, 3)
    # the same vectors as those of our own methods
    model = found["model"]
    ours = torch.cat(
        [
            model.encode_text(["cow", "dog", "elephant"]),
            model.encode_image(["assets/dog.JPEG", "assets/elephant.JPEG"]),
            model.encode_audio(["assets/cow.flac", "assets/dog.flac"]),
        ]
    )
    theirs = torch.cat([found[f"{m}_features"].float() for m in ("text", "image", "audio")])
    assert torch.cosine_similarity(ours, theirs).min() > (0.9999 if dtype == "float32" else 0.99)


def test_audio_masks(published: Path) -> None:
    model = from_pretrained(published / "one-peace.pt")
    paths = [published / "assets/cow.flac", published / "assets/dog.flac"]
    waveforms, padding = model.process_audio(paths)
    frames = model.processors["audio"].length({"waveform": waveforms[1]})
    assert padding.shape == (2, frames + 1) and padding.dtype == torch.bool
    assert not padding[1].any() and padding[0].any() and not padding[0, 0]
    alone, no_padding = model.process_audio(paths[:1])
    assert not no_padding.any() and alone.shape[1] < waveforms.shape[1]
    features = model.extract_audio_features(waveforms, padding)
    assert torch.allclose(features[:1], model.extract_audio_features(alone, no_padding), atol=1e-5)


def test_a_text_alone_is_one_text(published: Path) -> None:
    model = from_pretrained(published / "one-peace.pt")
    assert torch.equal(model.process_text("cow"), model.process_text(["cow"]))


def test_model_type_and_download_root(published: Path) -> None:
    model = from_pretrained("ONE-PEACE", model_type="one_peace_retrieval", device="cpu", download_root=published)
    assert model.modalities == ("text", "image", "audio")


def test_branch_without_the_modality(published: Path) -> None:
    model = from_pretrained(published / "one-peace.pt", modalities=["image"])
    with pytest.raises(ValueError, match=re.escape("no modality 'audio'; it has image")):
        model.process_audio([published / "assets/cow.flac"])
