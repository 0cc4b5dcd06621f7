"""The class that users hold: forms of input, bad input, order, unit length, fingerprint, similarity, mixes."""

from __future__ import annotations

import base64
import dataclasses
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from one_peace.errors import InputError
from one_peace.models import embedding, inputs
from one_peace.models.embedding import EmbeddingResult
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.model import OnePeaceEncoder
from tiny_models import CONFIG, tiny_processors

PROCESSORS = tiny_processors()
RATE = 16_000


def random_model(seed: int = 0, config: OnePeaceConfig = CONFIG) -> OnePeace:
    torch.manual_seed(seed)
    encoder = OnePeaceEncoder(dataclasses.replace(config, decoder=None))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return OnePeace(encoder, {name: PROCESSORS[name] for name in config.modalities})


@pytest.fixture(scope="module")
def model() -> OnePeace:
    return random_model()


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)


def wave(seed: int = 0, seconds: float = 1.2) -> np.ndarray:
    """Multiples of 1/32768, so that a 16-bit file holds them exactly."""
    noise = np.random.default_rng(seed).integers(-9000, 9000, int(seconds * RATE))
    return (noise / 32768).astype(np.float32)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def wav(waveform: np.ndarray, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, waveform, rate, "PCM_16", format="WAV")
    return stream.getvalue()


def data_url(contents: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(contents).decode()


def bomb() -> bytes:
    """A PNG of a hundred bytes whose header promises four thousand million pixels."""

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(9))) + part(b"IEND", b"")


def same(first: Tensor, second: Tensor) -> None:
    """Equal up to the rounding of another batch."""
    torch.testing.assert_close(first, second, atol=5e-6, rtol=0)


STORED: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "string": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file in memory": lambda path: io.BytesIO(path.read_bytes()),
    "file URL": lambda path: path.as_uri(),
    "data URL": lambda path: data_url(path.read_bytes()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs and more")  # a blank in the path: file URLs must escape it
    (path / "a.png").write_bytes(png(pixels()))
    (path / "a.wav").write_bytes(wav(wave()))
    return path


@pytest.mark.parametrize("form", STORED)
@pytest.mark.parametrize(("name", "file"), [("image", "a.png"), ("audio", "a.wav")])
def test_every_stored_form_gives_the_embedding_of_the_array(
    model: OnePeace, folder: Path, name: str, file: str, form: str
) -> None:
    plain = model.encode_modality(name, pixels() if name == "image" else wave())
    assert plain.shape == (1, model.dim) and plain.dtype == torch.float32
    same(model.encode_modality(name, STORED[form](folder / file)), plain)
    assert not torch.allclose(model.encode_modality(name, pixels(1) if name == "image" else wave(1)), plain, atol=1e-3)


@pytest.mark.parametrize("name", ["image", "audio"])
def test_an_open_file_is_one_input_and_stays_open(model: OnePeace, folder: Path, name: str) -> None:
    file = folder / ("a.png" if name == "image" else "a.wav")
    with open(file, "rb") as stream:
        same(model.encode_modality(name, stream), model.encode_modality(name, file))
        assert not stream.closed


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda a: torch.from_numpy(a),
        lambda a: torch.from_numpy(a).permute(2, 0, 1),
        lambda a: torch.from_numpy(a).permute(2, 0, 1).float() / 255,
        lambda a: a.astype(np.float64) / 255,
        lambda a: a.astype(np.int64),
        lambda a: np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]),
    ],
    ids=["PIL", "tensor", "channels first", "float tensor", "float array", "int array", "opaque alpha"],
)
def test_decoded_pictures(model: OnePeace, convert: Callable[[np.ndarray], Any]) -> None:
    same(model.encode_image(convert(pixels())), model.encode_image(pixels()))


@pytest.mark.parametrize(
    "convert",
    [
        torch.from_numpy,
        lambda w: w.astype(np.float64),
        lambda w: (w, RATE),
        lambda w: (torch.from_numpy(w), RATE),
        lambda w: ((w * 32768).astype(np.int16), RATE),
        lambda w: (np.stack([w, w]), RATE),
        lambda w: (np.stack([w, w], axis=1), RATE),
        lambda w: wav(np.stack([w, w], axis=1)),
    ],
    ids=["tensor", "float64", "pair", "tensor pair", "int16", "channels first", "channels last", "stereo file"],
)
def test_decoded_sounds(model: OnePeace, convert: Callable[[np.ndarray], Any]) -> None:
    same(model.encode_audio(convert(wave())), model.encode_audio(wave()))


def test_another_sample_rate_is_resampled(model: OnePeace) -> None:
    def tone(rate: int) -> tuple[np.ndarray, int]:
        return np.sin(np.arange(2 * rate) / rate * 2 * np.pi * 440).astype(np.float32), rate

    usual, other = (model.encode_audio(tone(rate)) for rate in (RATE, 44_100))
    misread = model.encode_audio((tone(44_100)[0], RATE))
    assert model.similarity(usual, other) > 0.999
    assert model.similarity(usual, misread) < model.similarity(usual, other) - 1e-3


def test_a_long_sound_is_the_mean_of_its_windows(model: OnePeace) -> None:
    long = wave(seconds=20)
    normal = torch.from_numpy((long - long.mean()) / long.std())
    views = [normal[: 15 * RATE], normal[5 * RATE :]]
    batch = PROCESSORS["audio"].collate([{"waveform": view} for view in views])
    with torch.inference_mode():
        mean = model.encoder.embed("audio", batch).mean(dim=0, keepdim=True)
    result = model.encode_audio([wave(1), long])
    torch.testing.assert_close(result[1:], mean / mean.norm(), atol=1e-5, rtol=0)
    same(result[:1], model.encode_audio(wave(1)))


def test_texts_come_alone_in_lists_and_from_iterators(model: OnePeace) -> None:
    captions = ["two boats", "lamp", "the old white horse runs"]
    rows = model.encode_text(captions)
    assert rows.shape == (3, model.dim)
    same(model.encode_text(iter(captions)), rows)
    same(model.encode_text(tuple(captions)), rows)
    same(model.encode_text(np.array(captions)), rows)
    same(model.encode_text(dict.fromkeys(captions).keys()), rows)
    same(model.encode_text(caption for caption in captions), rows)
    same(model.encode_text("lamp"), rows[1:2])
    same(model.encode_text("LAMP"), rows[1:2])  # as published, case does not count
    assert model.encode_text("").norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_order_is_kept_whatever_the_lengths_and_batches(model: OnePeace, batch_size: int | None) -> None:
    captions = ["lamp " * (1 + 5 * i % 7) + str(i) for i in range(12)]
    rows = model.encode_text(captions, batch_size=batch_size)
    for caption, row in zip(captions, rows, strict=True):
        same(row[None], model.encode_text(caption))
    assert (model.similarity(rows, rows) > 1 - 1e-6).sum() == len(captions)  # no two rows are alike


def test_order_is_kept_across_chunks(model: OnePeace, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [f"{'lamp ' * (i % 4)}{i}" for i in range(11)]
    whole = model.encode_text(captions)
    monkeypatch.setattr(embedding, "CHUNK", 4)
    same(model.encode_text(captions), whole)
    result = model.encode_text([*captions[:5], 7, *captions[6:]], on_error="skip")
    assert result.kept == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10] and list(result.errors) == [5]
    same(result.vectors, whole[result.kept])


@pytest.mark.parametrize("name", ["image", "audio"])
def test_an_iterator_is_read_as_its_inputs_are_encoded(
    model: OnePeace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PART_BYTES", 100_000)
    made = 0
    ahead: list[int] = []
    embed = OnePeace._embed_views

    def watched(self: OnePeace, *given: Any) -> Tensor:
        ahead.append(made)
        return embed(self, *given)

    def endless() -> Iterator[Any]:
        nonlocal made
        for made in range(1, 1 << 40):
            yield b"" if made == 60 else pixels(made % 5) if name == "image" else wave(made % 5)

    monkeypatch.setattr(OnePeace, "_embed_views", watched)
    with pytest.raises(InputError):
        model.encode_modality(name, endless())
    assert len(ahead) > 10 and ahead[0] < 40 and made < 100


def test_what_gives_no_finite_embedding_is_an_input_error(model: OnePeace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a modality of a user's own may let NaN through."""
    clean = PROCESSORS["audio"].views

    def leaking(source: Any) -> list[dict[str, Tensor]]:
        return [{"waveform": torch.full((RATE,), torch.nan)}] if source is lost else clean(source)

    lost = wave(9)
    monkeypatch.setattr(model.processors["audio"], "views", leaking)
    with pytest.raises(InputError, match=r"array of shape .*no finite embedding"):
        model.encode_audio([wave(), lost])
    result = model.encode_audio([wave(), lost, b"", wave(1)], on_error="skip")
    assert result.kept == [0, 3] and list(result.errors) == [1, 2]
    assert result.vectors.isfinite().all() and result.vectors.shape == (2, model.dim)


def test_every_row_has_unit_length_and_lies_on_the_cpu(model: OnePeace) -> None:
    for rows in (
        model.encode_text(["lamp", "two boats"]),
        model.encode_image([pixels(0), pixels(1)]),
        model.encode_audio([wave(0), wave(1, 2.0), wave(2, 0.3)]),
        random_model().to(dtype=torch.bfloat16).encode_text(["lamp", "two boats"]),
    ):
        assert rows.dtype == torch.float32 and rows.device.type == "cpu" and not rows.requires_grad
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_type_changes_nothing(model: OnePeace, dtype: torch.dtype) -> None:
    expected = model.encode_text("lamp"), model.encode_image(pixels()), model.encode_audio(wave())
    torch.set_default_dtype(dtype)
    try:
        found = model.encode_text("lamp"), model.encode_image(pixels()), model.encode_audio(wave())
        mixed = model.encode(text="lamp", image=pixels())
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        same(one, other)
    assert mixed.dtype == torch.float32


def test_another_default_device_changes_nothing(model: OnePeace) -> None:
    def rows() -> list[Tensor]:
        sounds = model.encode_audio([wave(0), wave(1, 2.0)])
        mixed = model.encode(text="lamp", image=pixels())
        return [model.encode_text(["lamp", "two boats"]), model.encode_image(pixels()), sounds, mixed]

    with torch.device("meta"):  # stands for a GPU, on which nothing of this is to be
        found = rows()
    for one, other in zip(found, rows(), strict=True):
        same(one, other)


def test_the_published_methods_take_one_input_for_one(model: OnePeace, tmp_path: Path) -> None:
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    one = model.process_image([pixels()])
    same(model.process_image(pixels()), one)  # and not its rows
    same(model.process_image(tmp_path / "a.png"), one)
    same(model.process_audio(wave())[0], model.process_audio([wave()])[0])
    assert model.process_text("lamp").shape[0] == 1
    assert model.process_text(np.array(["lamp", "boat"])).shape[0] == model.process_text(("lamp", "boat")).shape[0] == 2


def test_a_table_of_texts_is_not_taken_for_its_keys(model: OnePeace) -> None:
    with pytest.raises(InputError, match="expected a text"):
        model.encode_text({"a.png": "lamp"})


BAD: dict[str, dict[str, Any]] = {
    "image": {
        "truncated": png(pixels())[:-600],
        "text": b"once upon a time there was no picture",
        "a sound": wav(wave()),
        "empty": b"",
        "missing": Path("no such folder") / "a.png",
        "a web address": "https://example.org/a.png",
        "bomb": bomb(),
        "wrong rank": np.zeros((2, 48, 40, 3), np.uint8),
        "wrong channels": np.zeros((48, 40, 5), np.uint8),
        "no pixels": np.zeros((0, 40, 3), np.uint8),
        "NaN": np.full((48, 40, 3), np.nan, np.float32),
        "a number": 7,
        "nothing": None,
    },
    "audio": {
        "truncated": wav(wave())[:30],
        "text": b"once upon a time there was no sound",
        "a picture": png(pixels()),
        "empty": b"",
        "missing": Path("no such folder") / "a.wav",
        "zero length": np.zeros(0, np.float32),
        "zero length file": wav(np.zeros(0, np.float32)),
        "NaN": np.where(np.arange(20_000) == 9_000, np.nan, 0.1).astype(np.float32),
        "infinite": np.where(np.arange(20_000) == 9_000, np.inf, 0.1).astype(np.float32),
        "wrong rank": (np.zeros((2, 2, 20_000), np.float32), RATE),
        "no rate": np.zeros((2, 20_000), np.float32),
        "zero rate": (wave(), 0),
        "a number": 7,
        "nothing": None,
    },
    "text": {"a number": 7, "nothing": None, "bytes": b"lamp", "lone surrogate": "lamp \ud800"},
}
GOOD: dict[str, list[Any]] = {
    "image": [pixels(0), png(pixels(1)), Image.fromarray(pixels(2))],
    "audio": [wave(0), wav(wave(1, 2.0)), (wave(2, 0.5), RATE)],
    "text": ["lamp", "two boats on the floor", "the old white horse runs"],
}
CASES = [(name, kind) for name, bad in BAD.items() for kind in bad]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=map("-".join, CASES))
def test_bad_input_raises_an_error_that_names_it(model: OnePeace, name: str, kind: str) -> None:
    with pytest.raises(InputError) as caught:
        model.encode_modality(name, [*GOOD[name], BAD[name][kind]])
    assert caught.value.source and str(caught.value).startswith(caught.value.source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", list(BAD))
def test_skipping_loses_nothing_but_the_bad(model: OnePeace, name: str) -> None:
    """Bad inputs of every kind stand between the good ones."""
    good, bad = GOOD[name], list(BAD[name].values())
    inputs = [bad[0], good[0], *bad[1:-1], good[1], bad[-1], good[2]]
    kept = [1, len(bad), len(bad) + 2]
    result = model.encode_modality(name, inputs, on_error="skip")
    assert isinstance(result, EmbeddingResult)
    assert result.kept == kept
    assert sorted([*result.kept, *result.errors]) == list(range(len(inputs)))
    assert all(isinstance(error, InputError) for error in result.errors.values())
    same(result.vectors, model.encode_modality(name, good))


@pytest.mark.parametrize("name", list(BAD))
def test_skipping_everything_leaves_no_rows(model: OnePeace, name: str) -> None:
    bad = list(BAD[name].values())
    result = model.encode_modality(name, bad, on_error="skip")
    assert result.vectors.shape == (0, model.dim) and result.kept == [] and list(result.errors) == list(range(len(bad)))
    single = model.encode_modality(name, bad[0], on_error="skip")
    assert single.kept == [] and list(single.errors) == [0]


def test_the_first_bad_input_is_the_one_that_raises(model: OnePeace) -> None:
    with pytest.raises(InputError, match="first.png"):
        model.encode_image([pixels(), "first.png", "second.png", "third.png", "fourth.png"])


@pytest.mark.parametrize("name", list(CONFIG.modalities))
def test_an_empty_list_gives_no_rows(model: OnePeace, name: str) -> None:
    rows = model.encode_modality(name, [])
    assert rows.shape == (0, model.dim) and rows.dtype == torch.float32
    result = model.encode_modality(name, [], on_error="skip")
    assert result.vectors.shape == (0, model.dim) and (result.kept, result.errors) == ([], {})


def test_wrong_options_are_refused(model: OnePeace) -> None:
    with pytest.raises(ValueError, match="on_error.*'ignore'"):
        model.encode_text("lamp", on_error="ignore")
    for size in (0, -1, 2.5, float("nan")):
        with pytest.raises(ValueError, match="batch_size"):
            model.encode_text("lamp", batch_size=size)
    with pytest.raises(ValueError, match="no modality 'smell'.*text, image, audio"):
        model.encode_modality("smell", "lamp")
    with pytest.raises(ValueError, match="no modality 'audio'.*it has text"):
        random_model(config=CONFIG.with_modalities(["text"])).encode_audio(wave())


def half_again(half: OnePeace) -> OnePeace:
    """The same weights, read into float32."""
    model = random_model()
    model.encoder.load_state_dict(half.encoder.state_dict())
    return model


def test_the_fingerprint_identifies_the_vector_space() -> None:
    first = random_model().fingerprint
    assert first == random_model().fingerprint
    assert first == random_model().to(dtype=torch.bfloat16).fingerprint
    assert first == random_model().to(dtype=torch.bfloat16).to(dtype=torch.float32).fingerprint
    half = random_model().to(dtype=torch.float16)  # stored in half precision, like the models that come with us
    assert half.fingerprint == half_again(half).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    assert first != random_model(seed=1).fingerprint


def test_preprocessing_and_branches_have_their_own_fingerprint() -> None:
    text = dataclasses.replace(CONFIG.modalities["text"], max_tokens=60)
    other = dataclasses.replace(CONFIG, modalities=CONFIG.modalities | {"text": text})
    assert random_model(config=other).fingerprint != random_model().fingerprint
    assert random_model(config=CONFIG.with_modalities(["text"])).fingerprint != random_model().fingerprint


@pytest.mark.parametrize("part", ["adapters.text.tokens.weight", "fusion.norms.audio.bias", "projections.image.weight"])
def test_training_any_part_changes_the_fingerprint(part: str) -> None:
    changed = random_model()
    with torch.no_grad():
        changed.encoder.get_parameter(part).mul_(1.1)
    assert changed.fingerprint != random_model().fingerprint


def test_a_fingerprint_follows_weights_that_change_later() -> None:
    changed = random_model()
    before = changed.fingerprint
    changed.encoder.load_state_dict(random_model(seed=1).encoder.state_dict())
    assert before != changed.fingerprint == random_model(seed=1).fingerprint


@pytest.mark.parametrize("part", ["encoder", "encoder.fusion"])
def test_a_compiled_network_is_the_same_model(tmp_path: Path, part: str) -> None:
    expected, compiled = random_model(), random_model()
    owner = compiled if part == "encoder" else compiled.encoder
    name = part.rpartition(".")[2]
    setattr(owner, name, torch.compile(getattr(owner, name), backend="eager"))
    assert compiled.fingerprint == expected.fingerprint
    same(from_pretrained(compiled.save_pretrained(tmp_path / part)).encode_text("lamp"), expected.encode_text("lamp"))


def test_similarity_is_the_cosine(model: OnePeace) -> None:
    first, second = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [-4.0, 3.0], [3.0, 4.0]])
    expected = torch.tensor([[0.6, 0.0, 1.0], [0.0, 0.6, 0.8]])
    torch.testing.assert_close(model.similarity(first, second), expected)
    torch.testing.assert_close(model.similarity(first.bfloat16(), second.double()), expected)
    torch.testing.assert_close(model.similarity(first.numpy(), second), expected)  # what was read from a file
    assert model.similarity(model.encode_text("lamp"), model.encode_image(pixels())).shape == (1, 1)


def test_a_mix_is_the_unit_mean_of_its_parts(model: OnePeace) -> None:
    text, image = model.encode_text("lamp"), model.encode_image(pixels())
    same(model.encode(text="lamp"), text)
    same(model.encode(text="lamp", image=pixels()), torch.nn.functional.normalize(text + image))
    several = model.encode_text(["lamp", "two boats"]).mean(dim=0, keepdim=True)
    same(model.encode(text=["lamp", "two boats"], image=pixels()), torch.nn.functional.normalize(several + image))


def test_weights_shift_a_mix(model: OnePeace) -> None:
    text, sound = model.encode_text("lamp"), model.encode_audio(wave())
    inputs: dict[str, Any] = {"text": "lamp", "audio": wave()}
    same(model.encode(**inputs, weights={"text": 3.0}), torch.nn.functional.normalize(3 * text + sound))
    same(model.encode(**inputs, weights={"text": 0.0}), sound)
    minus = model.encode(**inputs, weights={"audio": -1.0})
    same(minus, torch.nn.functional.normalize(text - sound))
    assert minus.norm().item() == pytest.approx(1.0, abs=1e-5)


def test_a_mix_without_a_direction_is_refused(model: OnePeace) -> None:
    inputs: dict[str, Any] = {"text": "lamp", "image": pixels()}
    with pytest.raises(ValueError, match="nothing to encode.*text, image, audio"):
        model.encode()
    with pytest.raises(ValueError, match="list for 'text' is empty"):
        model.encode(**inputs | {"text": []})
    with pytest.raises(ValueError, match="weight for 'txt'"):
        model.encode(**inputs, weights={"txt": 2.0})
    for weight in (float("nan"), float("inf"), 1e300):
        with pytest.raises(ValueError, match="weight of 'text'"):
            model.encode(**inputs, weights={"text": weight})
    with pytest.raises(ValueError, match="cancel out"):
        model.encode(**inputs, weights={"text": 0.0, "image": 0.0})
    with pytest.raises(ValueError, match="no modality 'smell'"):
        model.encode(smell="lamp")
    with pytest.raises(InputError, match="gone.png"):
        model.encode(text="lamp", image="gone.png")


def test_features_are_joint(model: OnePeace) -> None:
    joint = model.features(text=["lamp", "two boats"], image=[pixels(0), pixels(1)])
    assert list(joint) == ["text", "image"]
    assert joint["image"].shape == (2, 17, model.dim)
    alone = model.features(image=[pixels(0), pixels(1)])["image"]
    assert (joint["image"] - alone).abs().max() > 1e-3
    same(model.encoder.project("image", alone), model.encode_image([pixels(0), pixels(1)]))
    with pytest.raises(ValueError, match="equally many.*1, 2"):
        model.features(text="lamp", image=[pixels(0), pixels(1)])
    several = model.features(text=(word for word in ("lamp", "two boats")), image=iter([pixels(0), pixels(1)]))
    assert torch.equal(several["text"], joint["text"])
    for name in ("text", "image", "audio"):
        with pytest.raises(ValueError, match=f"list for '{name}' is empty"):
            model.features(**{name: []})
    with pytest.raises(ValueError, match="no modality 'smell'"):
        model.features(smell="lamp")


def test_a_head_can_be_trained_on_what_comes_out(model: OnePeace) -> None:
    head = torch.nn.Linear(model.dim, 1)
    for rows in (model.encode_text("lamp"), model.features(text="lamp")["text"]):
        head(rows).sum().backward()


def test_encoding_leaves_no_trace_in_the_model() -> None:
    model = random_model()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    array, waveform = pixels(), wave()
    model.encode(text="lamp", image=array, audio=waveform)
    assert np.array_equal(array, pixels()) and np.array_equal(waveform, wave())
    assert not model.encoder.training and not any(p.requires_grad for p in model.encoder.parameters())
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name])
