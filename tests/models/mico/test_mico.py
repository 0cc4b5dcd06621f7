"""MiCo as a whole: loading, embeddings, matching, captions, training behaviour."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import golden_mico as golden
import one_peace
from one_peace.errors import CheckpointError, InputError
from one_peace.generation.beam import beam_search
from one_peace.models.mico.config import MiCoConfig
from one_peace.models.mico.interface import MiCo
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import list_presets, preset
from one_peace.models.mico.text import TextModel
from one_peace.models.mico.tower import Tower, TowerBlock
from one_peace.models.mico.writing import TextDecoder, search_settings
from one_peace.search import reranking
from one_peace.search.library import Library
from one_peace.server.encoder import BatchingEncoder
from video_files import animation

GOLDEN = Path(__file__).parents[2] / "golden" / "mico"
VOCABULARY = GOLDEN / "vocab.txt"
FIRST, LAST, MASK = 101, 102, 103


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.write_official(GOLDEN, tmp_path_factory.mktemp("mico") / "MiCo-small")


@pytest.fixture(scope="module")
def mico(official: Path) -> MiCo:
    model = one_peace.from_pretrained(official, tokenizer=VOCABULARY)
    assert isinstance(model, MiCo)
    return model


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def relief(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 5, (50, 70)).astype(np.float32)


def sound(seed: int, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    return np.random.default_rng(seed).standard_normal(int(16000 * seconds)).astype(np.float32) / 8, 16000


@pytest.mark.parametrize("name", list_presets())
def test_presets_follow_one_rule(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = MiCoModel(config)
    assert config.tower.width // config.tower.heads == 88
    assert model.text.config.width == config.tower.width * 6 // 11
    assert MiCoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_wrong_key_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="contrast_width"):
        MiCoConfig.from_dict(preset("mico-nano").to_dict() | {"contrast_with": 3})
    with pytest.raises(ValueError, match="'audio'"):
        dataclasses.replace(preset("mico-nano"), frames={"vision": 4})


@pytest.mark.parametrize(
    "field, value",
    [
        ("tower.width", 0),
        ("tower.layers", 10**9),
        ("tower.heads", 3),
        ("tower.patch", 0),
        ("tower.drop_path", 1.0),
        ("text.layers", -1),
        ("text.vocab_size", 0),
        ("text.width", 10**15),
        ("contrast_width", "8"),
        ("frames.vision", -1),
        ("beams", 0),
    ],
)
def test_impossible_configurations(mico: MiCo, tmp_path: Path, field: str, value: object) -> None:
    mico.save_pretrained(folder := tmp_path / "changed")
    values = json.loads((folder / "config.json").read_text())
    part, _, name = field.rpartition(".")
    (values[part] if part else values)[name] = value
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="changed: its configuration"):
        one_peace.from_pretrained(folder)


def test_embeddings_of_every_modality(mico: MiCo) -> None:
    inputs = {
        "text": ["a dog", "two cats on a sofa"],
        "image": [picture(0), picture(1)],
        "audio": [sound(0), sound(1, 2.0)],
        "depth": [relief(2), relief(3)],
        "normals": [picture(4), picture(5)],
    }
    for name, sources in inputs.items():
        vectors = mico.encode_modality(name, sources)
        assert vectors.shape == (2, mico.dim)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-6)
        assert torch.allclose(mico.encode_modality(name, sources[1]), vectors[1:], atol=1e-5), name
    both = mico.encode(image=picture(0), text="a dog")
    assert both.shape == (1, mico.dim)


def test_a_video_that_stands_still_is_its_picture(mico: MiCo) -> None:
    still = np.asarray(picture(7))
    moving = np.stack([np.asarray(picture(seed)) for seed in range(6)])
    vectors = mico.encode_video([[Image.fromarray(still)] * 5, animation(moving)])
    assert torch.allclose(vectors[:1], mico.encode_image(Image.fromarray(still)), atol=1e-5)
    assert not torch.allclose(vectors[1], vectors[0], atol=1e-2)
    silent, heard = (
        mico.match("a dog", video=animation(moving)),
        mico.match("a dog", video=animation(moving), audio=sound(0)),
    )
    assert silent.shape == heard.shape == (1, 1)
    assert abs(silent - heard).item() > 1e-4


def test_our_folder_gives_the_same_model(mico: MiCo, tmp_path: Path) -> None:
    mico.save_pretrained(tmp_path / "saved")
    again = one_peace.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == mico.fingerprint
    assert torch.equal(again.encode_text("a dog"), mico.encode_text("a dog"))
    assert torch.equal(again.encode_image(picture(0)), mico.encode_image(picture(0)))


def test_without_vocabulary_only_texts_fail(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONE_PEACE_VOCAB", raising=False)
    model = one_peace.from_pretrained(official)
    assert model.encode_image(picture(0)).shape == (1, model.dim)
    with pytest.raises(InputError, match=r"vocab\.txt"):
        model.encode_text("a dog")
    with pytest.raises(InputError, match="vocabulary"):
        model.caption(image=picture(0))


def test_a_vocabulary_that_is_none_or_of_another_model(official: Path, tmp_path: Path) -> None:
    weights = next((official / "ckpt").glob("*.pt"))
    with pytest.raises(ValueError, match=f"{weights.name}: not a vocabulary"):
        one_peace.from_pretrained(official, tokenizer=weights)
    other = tmp_path / "vocab.txt"
    words = VOCABULARY.read_text().splitlines()
    other.write_text("\n".join([*words, *(f"more{n}" for n in range(10))]))
    with pytest.raises(ValueError, match=r"vocab\.txt: the vocabulary has \d+ ids, the model only"):
        one_peace.from_pretrained(official, tokenizer=other)


def test_another_picture_size(official: Path) -> None:
    model = one_peace.from_pretrained(official, image_size=84, modalities=["image"])
    assert model.modalities == ("image",)
    assert model.encode_image(picture(0)).shape == (1, model.dim)
    assert model.encoder.tower.positions.shape[1] == 37
    with pytest.raises(ValueError, match=r"list of names, got 'image'; give \['image'\]"):
        one_peace.from_pretrained(official, modalities="image")
    with pytest.raises(ValueError, match="at least one modality; .* has text, image"):
        one_peace.from_pretrained(official, modalities=[])


def _counting(forward: Callable[..., torch.Tensor], read: list[int]) -> Callable[..., torch.Tensor]:
    def counted(tokens: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        read.append(len(tokens))
        return forward(tokens, *more, **options)

    return counted


def test_matching_pairs_each_text_with_each_input(mico: MiCo, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, pictures = ["a dog", "two cats on a sofa", "rain"], [picture(n) for n in range(5)]
    scores = mico.match(texts, image=pictures)
    read: list[int] = []
    monkeypatch.setattr(mico.encoder.text, "forward", _counting(mico.encoder.text.forward, read))
    monkeypatch.setattr("one_peace.models.mico.interface.TEXTS_AT_ONCE", 4)
    torch.testing.assert_close(mico.match(texts, image=pictures), scores, atol=1e-5, rtol=0)
    assert max(read) <= 4
    assert scores.shape == (3, 5)
    for row, text in enumerate(texts):
        for column, one in enumerate(pictures):
            assert torch.allclose(mico.match(text, image=one)[0, 0], scores[row, column], atol=1e-5)
    joint = mico.match(texts, image=iter(pictures[:2]), audio=[sound(0), sound(1)])
    assert joint.shape == (3, 2)
    assert not torch.allclose(joint, scores[:, :2], atol=1e-3)


def test_a_head_can_be_trained_on_what_comes_out(mico: MiCo) -> None:
    rows = mico.encode_joint(image=picture(0))
    torch.nn.Linear(mico.dim, 1)(rows).sum().backward()
    torch.nn.Linear(1, 1)(mico.match("a dog", image=picture(0))).sum().backward()


def test_what_cannot_be_read_together_is_named(mico: MiCo) -> None:
    with pytest.raises(ValueError, match="same branch"):
        mico.match("a dog", image=picture(0), video="clip.mp4")
    with pytest.raises(ValueError, match="equally many"):
        mico.caption(image=[picture(0), picture(1)], audio=sound(0))
    with pytest.raises(ValueError, match="smell"):
        mico.caption(smell="rose")
    with pytest.raises(ValueError, match="questions"):
        mico.answer(["what?", "where?"], image=picture(0))
    with pytest.raises(ValueError, match="no texts"):
        mico.match([], image=picture(0))


def test_features_that_are_no_numbers_are_named(mico: MiCo, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = mico.encoder.encode

    def broken(*given: Any) -> torch.Tensor:
        return encode(*given).index_fill(0, torch.tensor([1]), math.inf)

    monkeypatch.setattr(mico.encoder, "encode", broken)
    asked: list[Callable[..., Any]] = [mico.caption, partial(mico.match, "a dog"), partial(mico.answer, "what?")]
    for ask in (*asked, mico.encode_joint):
        with pytest.raises(InputError, match="picture of 40 x 30, RGB: gives no finite features"):
            ask(image=[picture(0), Image.new("RGB", (40, 30))])


def test_no_inputs_give_no_results(mico: MiCo) -> None:
    assert mico.caption(image=[]) == mico.answer([], image=[], audio=[]) == []
    assert mico.match(["a dog", "rain"], image=iter([])).shape == (2, 0)
    assert mico.encode_joint(image=[]).shape == (0, mico.dim)


def test_what_is_written_ends_where_positions_do(mico: MiCo, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = mico.encoder.text.prediction
    endless = torch.nn.Parameter(prediction.bias.index_fill(0, torch.tensor(LAST), -100.0), requires_grad=False)
    monkeypatch.setattr(prediction, "bias", endless)
    for written in (
        mico.caption(image=picture(0), samples=1, max_tokens=600)[0],
        mico.answer("what is it?", image=picture(0), beams=1, max_tokens=600),
    ):
        assert len(written) == 1 and written[0]


def test_captions_do_not_depend_on_company(mico: MiCo) -> None:
    pictures = [picture(n) for n in range(3)]
    together = mico.caption(image=pictures, max_tokens=6)
    assert together == [mico.caption(image=one, max_tokens=6)[0] for one in pictures]
    for wrong in ({"beams": 0}, {"max_tokens": 0}):  # none of them stands for the default
        with pytest.raises(ValueError, match="at least 1|must lie between"):
            mico.caption(image=pictures, **wrong)
        with pytest.raises(ValueError, match="at least 1|must lie between"):
            mico.answer("what is it?", image=pictures, **wrong)
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match="samples must"):
            mico.caption(image=pictures, samples=wrong)
    assert len(mico.answer("what is it?", image=pictures[0], max_tokens=3)) == 1


def test_samples_differ_and_depend_on_the_seed(mico: MiCo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("one_peace.models.mico.interface.FRAMES_AT_ONCE", 1)  # each picture is read on its own

    def draw(generator: torch.Generator | None = None) -> Any:
        return mico.caption(image=[picture(0)] * 3, samples=2, max_tokens=6, generator=generator)

    torch.manual_seed(0)
    first, second = draw(), draw()
    assert [len(captions) for captions in first] == [2, 2, 2]
    assert first[0] != first[1] and first != second
    torch.manual_seed(0)
    assert draw() == first
    apart = draw(torch.Generator().manual_seed(3))
    monkeypatch.undo()
    assert draw(torch.Generator().manual_seed(3)) == apart, "however many are read at a time"


class WholeText:
    """The published way: the whole text again for every word."""

    def __init__(self, text: TextModel, memory: torch.Tensor) -> None:
        self.text, self.memory = text, memory
        self.owner = torch.arange(len(memory))
        self.tokens = torch.empty(len(memory), 0, dtype=torch.int64)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        asking = torch.cat([self.tokens, torch.full((len(tokens), 1), MASK)], dim=1)
        length = asking.shape[1]
        mask = torch.ones(length, length).tril()[None]
        hidden = self.text(asking, mask, self.text.project_memory(self.memory[self.owner]))
        return self.text.predict(hidden[:, -1])

    def reorder(self, rows: torch.Tensor) -> None:
        self.owner, self.tokens = self.owner[rows], self.tokens[rows]


def test_cached_generation_is_exact() -> None:
    model = golden.model(GOLDEN)
    with torch.no_grad():
        memory = model.remember({"vision": torch.randn(2, 3, 5, model.config.tower.width)})
        projected = model.text.project_memory(memory)
    cached, whole = TextDecoder(model.text, projected, MASK), WholeText(model.text, memory)
    tokens = torch.tensor([[FIRST], [FIRST]])
    # beams, then inputs with different numbers of rows, then an input that is done
    for rows in ([0, 0, 1, 1], [1, 0, 2, 2, 3], [3, 4]):
        for decoder in (cached, whole):
            logits = decoder.step(tokens)
            decoder.reorder(torch.tensor(rows))
            if decoder is cached:
                ours = logits
        assert torch.allclose(ours, logits, atol=1e-4)
        tokens = logits.argmax(1)[torch.tensor(rows)][:, None]
    assert cached.memory[0][0].shape[0] == 1
    # an input whose beams stand side by side has its keys once
    fresh = TextDecoder(model.text, projected, MASK)
    found = beam_search(fresh, torch.full((2, 1), FIRST), search_settings(LAST, 5, 3, 0.6))
    assert fresh.memory[0][0].shape[0] <= 2
    assert all(len(hypotheses) == 3 for hypotheses in found)


def test_the_first_token_alone_is_the_same() -> None:
    model = golden.model(GOLDEN)
    frames = torch.randn(2, 3, 56, 56)
    tokens = torch.tensor([[FIRST, 2158, LAST, 0], [FIRST, 2158, 2158, LAST]])
    with torch.no_grad():
        assert torch.allclose(model.tower(frames, cls_only=True), model.tower(frames)[:, :1], atol=1e-5)
        mask = tokens != 0
        assert torch.allclose(model.text(tokens, mask, cls_only=True), model.text(tokens, mask)[:, :1], atol=1e-5)


def test_padding_changes_nothing() -> None:
    model = golden.model(GOLDEN)
    short = torch.tensor([[FIRST, 2158, 2003, LAST]])
    padded = torch.cat([short, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        assert torch.allclose(
            model.embed("text", {"tokens": short}), model.embed("text", {"tokens": padded}), atol=1e-6
        )


def test_padding_learns_nothing_as_input() -> None:
    model = golden.model(GOLDEN)
    model.embed("text", {"tokens": torch.tensor([[FIRST, 2158, LAST, 0, 0]])}).sum().backward()
    gradient = model.text.words.weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() == 0
    assert gradient[2158].abs().max() > 0


@pytest.mark.parametrize("kind", ["eva01", "eva02", "post_norm"])
def test_every_kind_of_tower_trains(kind: str) -> None:
    config = dataclasses.replace(preset("mico-nano").tower, layers=2, image_size=28, kind=kind, drop_path=0.5)
    torch.manual_seed(0)
    tower = Tower(config)
    tower.initialise()
    tower.train()(torch.randn(6, 3, 28, 28)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in tower.parameters())
    first, last = tower.blocks[0], tower.blocks[1]
    assert isinstance(first, TowerBlock)
    assert isinstance(last, TowerBlock)
    assert (first.drop_path.rate, last.drop_path.rate) == (0.0, 0.5)
    # the published start: what a branch adds becomes less with depth
    assert last.attention.out.weight.std() < first.attention.out.weight.std()


def test_frames_of_another_size_are_named(mico: MiCo) -> None:
    with pytest.raises(ValueError, match="56"):
        mico.encoder.tower(torch.zeros(1, 3, 28, 28))
    with pytest.raises(ValueError, match="positions"):
        mico.encoder.text(torch.zeros(1, 513, dtype=torch.int64))


def test_captioners_have_an_audio_encoder_of_their_own() -> None:
    values = preset("mico-nano").to_dict()
    values["tower"] |= {"layers": 1, "image_size": 28}
    values["frames"] = {"vision": 2, "audio": 2}
    values["modalities"] = {"image": {"size": 28, "count": 1}, "audio": {"bins": 32, "frames": 64, "count": 2}}
    shape = {"width": 48, "layers": 2, "heads": 4, "ffn_width": 96}
    for audio in (
        shape | {"kind": "beats", "patch_width": 32, "position_kernel": 16, "position_groups": 4},
        shape | {"kind": "ast", "mel_bins": 32, "frames": 64},
    ):
        config = MiCoConfig.from_dict(values | {"audio_encoder": audio})
        assert MiCoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        model = MiCoModel(config).eval()
        slices = torch.randn(3, 2, 64, 32)
        assert model.embed("audio", {"slices": slices}).shape == (3, config.contrast_width)
        assert "vision_depth" not in model.contrast
        with pytest.raises(ValueError, match="depth"):
            model.encode("depth", {"frames": torch.zeros(1, 1, 3, 28, 28)})


def test_a_library_searches_with_it(mico: MiCo, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(4):
        picture(seed).save(folder / f"{seed}.png")
    (folder / "note.txt").write_text("a dog in the snow")
    library = Library(tmp_path / "library", mico)
    library.index(folder, progress=False)
    found = library.search(image=folder / "2.png", k=2)
    assert found[0].path.name == "2.png"
    assert found[0].score == pytest.approx(1.0, abs=1e-4)
    reread = Library(tmp_path / "library", mico)
    assert len(reread.search(text="a dog in the snow", k=5)) == 5


def test_the_library_asks_what_matches(mico: MiCo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "_AT_ONCE", 2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(5):
        picture(seed).save(folder / f"{seed}.png")
    served = BatchingEncoder(mico)
    library = Library(f"{tmp_path}/library", served)
    library.index(folder, progress=False)
    found = library.search(text="two cats", modality="image", k=5, rerank=5)
    scores = mico.match("two cats", image=[one.path for one in found])[0]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert torch.allclose(served.encode_modality("text", ["a dog"]), mico.encode_text("a dog"), atol=1e-5)
    served.close()


def test_a_damaged_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    folder = golden.write_official(GOLDEN, tmp_path / "other", vision_encoder_type="swin_large")
    with pytest.raises(CheckpointError, match="swin_large"):
        one_peace.from_pretrained(folder)
    settings = folder / "log" / "hps.json"
    settings.write_text("{}")
    with pytest.raises(CheckpointError, match="model_cfg"):
        one_peace.from_pretrained(folder)
    (folder / "ckpt" / "model_step_7.pt").unlink()
    with pytest.raises(CheckpointError, match="model_step_N"):
        one_peace.from_pretrained(folder)
