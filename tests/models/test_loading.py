"""Weights of every official kind into models, models into folders and back."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import one_peace
import tiny_models
from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.one_peace.config import infer_config, official_settings, parse_convolutions
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.registry import built_in_models
from one_peace.errors import CheckpointError, InputError
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models import from_pretrained
from one_peace.models.loading import load_embedder
from one_peace.models.one_peace.config import HeadConfig
from one_peace.models.one_peace.loading import open_saved
from one_peace.nn.resize import resize_bias_table, resize_positions

CONTAINER = Path(__file__).parents[1] / "golden" / "one_peace" / "fixture_x_checkpoint_small.pt"
LOADED = load_pickle(CONTAINER)
STATE: dict[str, Tensor] = LOADED["model"]
ENCODER = "encoder_wrapper."
TABLE = "_adapter.rel_pos_table_list.0.weight"
HEAD = {"classify_head.norm.weight": torch.ones(64), "classify_head.classifier.3.weight": torch.ones(2, 64)}
TOKENS = {"tokens": torch.tensor([[5, 9, 17, 2], [8, 30, 2, 1]])}
PIXELS = {"pixels": torch.linspace(-1, 1, 2 * 3 * 64 * 64).sin().reshape(2, 3, 64, 64)}


def write(path: Path, state: dict[str, Tensor], *, bare: bool = False, zipped: bool = True) -> Path:
    content = state if bare else {**LOADED, "model": state}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def without(state: dict[str, Tensor], *words: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not any(word in name for word in words)}


def features(model: one_peace.OnePeace) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.encoder.embed("text", TOKENS), model.encoder.embed("image", PIXELS)]).float()


@pytest.fixture(scope="module")
def expected() -> Tensor:
    found = features(from_pretrained(CONTAINER))
    assert found.std() > 0.05 and not found.isnan().any()
    return found


def legacy_table(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("rel_pos_table_list.0", "rel_pos_table"): tensor for name, tensor in state.items()}


def table_per_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    copies = {
        name.replace("list.0", f"list.{layer}"): tensor.clone()
        for name, tensor in state.items()
        if name.endswith(TABLE)
        for layer in (1, 2)
    }
    return state | copies


def table_per_layer_of_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return without(table_per_layer(state), "image_adapter.rel_pos_table_list.1", "image_adapter.rel_pos_table_list.2")


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "as it is": dict,
    "no decoder": lambda state: without(state, "decoder", "mask_"),
    "no buffers": lambda state: without(state, "rp_bucket", "position_idx", "version"),
    "legacy table": legacy_table,
    "table per layer": table_per_layer,
    "table per layer of one modality": table_per_layer_of_text,
    "task head": lambda state: state | HEAD,
    "saved from parallel training": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "saved compiled, from parallel training": lambda state: {f"module._orig_mod.{n}": t for n, t in state.items()},
    "parts of several dtypes": lambda state: {n: t.double() if "q_proj" in n else t for n, t in state.items()},
}


@pytest.mark.parametrize("change", CHANGES)
def test_variants_of_official_files(change: str, tmp_path: Path, expected: Tensor) -> None:
    model = from_pretrained(write(tmp_path / "model.pt", CHANGES[change](dict(STATE))))
    assert torch.allclose(features(model), expected, atol=1e-6)
    assert model.config.per_layer_bias == change.startswith("table per layer")
    assert model.config.decoder is None


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_containers(bare: bool, zipped: bool, tmp_path: Path, expected: Tensor) -> None:
    # without stored settings, heads and grids come from the shapes
    path = write(tmp_path / "model.pt", dict(STATE), bare=bare, zipped=zipped)
    assert torch.equal(features(from_pretrained(path)), expected)


@pytest.mark.parametrize("key, parts", [("args", False), ("cfg", False), ("cfg", True)])
def test_settings_in_a_namespace(tmp_path: Path, expected: Tensor, key: str, parts: bool) -> None:
    path = tmp_path / "old.pt"
    values = argparse.Namespace(patch_image_size=64)
    torch.save({key: argparse.Namespace(model=None, task=values) if parts else values, "model": STATE}, path)
    assert torch.equal(features(from_pretrained(path)), expected)


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", ["float32", "bf16", "fp16", torch.bfloat16])
def test_dtypes(stored: torch.dtype, wanted: str | torch.dtype, tmp_path: Path, expected: Tensor) -> None:
    state = {n: t.to(stored) if t.is_floating_point() else t for n, t in STATE.items()}
    model = from_pretrained(write(tmp_path / "model.pt", state), dtype=wanted)
    dtypes = {p.dtype for p in model.encoder.parameters()}
    assert dtypes == {model.dtype} and len(dtypes) == 1
    assert torch.cosine_similarity(features(model), expected).min() > 0.995
    source = state["encoder_wrapper.text_adapter.embed_tokens.weight"]
    assert torch.equal(model.encoder.adapters["text"].tokens.weight, source.to(model.dtype)), "converted once"


def test_vision_branch(tmp_path: Path) -> None:
    """The image features before final norm and projection are those of the whole model."""
    names = {
        "encoder_wrapper.image_adapter.": "image_adapter.",
        "encoder_wrapper.fusion_model.layers.": "encoder.layers.",
    }
    state = {
        new + name.removeprefix(old): tensor.numpy()
        for name, tensor in without(STATE, "text").items()
        for old, new in names.items()
        if name.startswith(old)
    }
    path = tmp_path / "vision.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "ofa", "matching_heuristics": True}))
    with pytest.warns(UserWarning, match="no projections"):
        branch = from_pretrained(path)
    assert branch.modalities == ("image",)
    whole = from_pretrained(CONTAINER, modalities=["image"])
    whole.encoder.fusion.norms["image"] = torch.nn.LayerNorm(64)
    with torch.no_grad():
        assert torch.allclose(
            branch.encoder({"image": PIXELS})["image"], whole.encoder({"image": PIXELS})["image"], atol=1e-6
        )


def test_type_embeddings_are_added(tmp_path: Path) -> None:
    """A model fine-tuned for pairs of pictures adds one to every token; that of the second picture is not needed."""
    added = {
        f"{ENCODER}{m}_adapter.type_embedding": torch.linspace(-1, 1, 64).reshape(1, 1, 64) for m in ("text", "image")
    }
    second = {f"{ENCODER}image_adapter.type_embedding_2": torch.full((1, 1, 64), 9.0)}
    state = without(table_per_layer(STATE), "decoder", "mask_", "_proj.", "logit_scale") | added | second | HEAD
    # attention projections carry the same word
    state |= {n: t for n, t in STATE.items() if n.startswith(f"{ENCODER}fusion_model.")}
    path = write(tmp_path / "nlvr2.pt", state)
    with pytest.warns(UserWarning, match="no projections"):
        typed = from_pretrained(path)
    plain = from_pretrained(CONTAINER)
    embedding = added[f"{ENCODER}text_adapter.type_embedding"][0]
    with torch.no_grad():
        for name, inputs in (("text", {"tokens": TOKENS["tokens"][:1]}), ("image", PIXELS)):
            ours = typed.encoder.adapters[name](inputs).features
            assert torch.allclose(ours, plain.encoder.adapters[name](inputs).features + embedding, atol=1e-6)
    for size in (32, 96):  # the sum survives resizing, whose weights add up to 1
        with pytest.warns(UserWarning, match="no projections"):
            assert from_pretrained(path, image_size=size).config.modalities["image"].image_size == size


def test_other_resolution(tmp_path: Path) -> None:
    model = from_pretrained(CONTAINER, image_size=np.int64(96))  # type: ignore[arg-type]
    table = STATE[f"{ENCODER}image{TABLE}"]
    adapter = model.encoder.adapters["image"]
    assert torch.equal(adapter.bias.tables[0], resize_bias_table(table, 6))
    assert model.config.modalities["image"].image_size == 96
    with torch.no_grad():
        vectors = model.encoder.embed("image", {"pixels": torch.nn.functional.interpolate(PIXELS["pixels"], 96)})
    model.save_pretrained(tmp_path / "ours")
    again = from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        pixels = torch.nn.functional.interpolate(PIXELS["pixels"], 96)
        assert torch.equal(again.encoder.embed("image", {"pixels": pixels}), vectors)
    # a fine-tuned file at its own size: one table per layer, a larger grid than that of the positions
    grown = {n: resize_bias_table(t, 6) if n.endswith(f"image{TABLE}") else t for n, t in STATE.items()}
    other = from_pretrained(write(tmp_path / "grown.pt", table_per_layer(grown)), image_size=96)
    assert torch.equal(other.encoder.adapters["image"].bias.tables[2], resize_bias_table(table, 6))
    assert other.encoder.adapters["image"].positions.weight.shape[0] == 17


def test_positions_of_another_grid_are_resized(tmp_path: Path) -> None:
    from_pretrained(CONTAINER).save_pretrained(tmp_path / "ours")
    config = json.loads((tmp_path / "ours/config.json").read_text())
    config["modalities"]["image"] |= {"grid": 6, "bias_grid": 6, "image_size": 96}
    (tmp_path / "ours/config.json").write_text(json.dumps(config))
    model = from_pretrained(tmp_path / "ours")
    positions = STATE[f"{ENCODER}image_adapter.pos_embed"]
    assert torch.equal(model.encoder.adapters["image"].positions.weight, resize_positions(positions, (6, 6)))


def test_every_key_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    gone, odd = "encoder_wrapper.fusion_model.layers.1.final_layer_norm.bias", "image_proj.weight"
    state = without(STATE, gone) | {
        "surprise.weight": torch.zeros(1),
        odd: torch.zeros(64, 63),
        "encoder_wrapper.text_adapter.embed_tokens.extra": torch.zeros(3),
        "decoder.extra": torch.zeros(3),
    }
    with pytest.raises(CheckpointError) as error:
        from_pretrained(write(tmp_path / "model.pt", state))
    for part in (
        "model.pt: 5 tensors do not fit",
        "fusion.blocks.1.ffn_norm.bias: missing",
        "projections.image.weight: shape 64 x 63 in the file, 64 x 64 in the model",
        "surprise.weight: unexpected",
        "embed_tokens.extra: unexpected",
        "decoder.extra: unexpected",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "gone, named",
    [
        ("fusion_model.layers.2.", "fusion.blocks.2.attention_scale: missing"),
        ("text_adapter.rel_pos_table_list.1", "adapters.text.bias.tables.1: missing"),
        ("image_adapter.rel_pos_table_list.2", "adapters.image.bias.tables.2: missing"),
    ],
)
def test_a_file_that_lacks_a_layer_is_no_smaller_model(gone: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(named)):
        from_pretrained(write(tmp_path / "model.pt", without(table_per_layer(STATE), gone)))


def test_incomplete_attention_is_named(tmp_path: Path) -> None:
    state = without(STATE, "layers.0.self_attn.k_proj", "layers.2.self_attn.q_proj.weight")
    with pytest.raises(CheckpointError) as error:
        from_pretrained(write(tmp_path / "model.pt", state))
    assert "layers.0.self_attn.k_proj.weight" in str(error.value)
    assert "layers.2.self_attn.q_proj.weight" in str(error.value)


def test_one_place_given_twice(tmp_path: Path) -> None:
    state = STATE | {f"{ENCODER}image_adapter.rel_pos_table.weight": torch.zeros(52, 4)}
    with pytest.raises(CheckpointError, match=r"rel_pos_table\.weight differs from .*rel_pos_table_list\.0\.weight"):
        from_pretrained(write(tmp_path / "model.pt", state))


def test_modalities_on_their_own(expected: Tensor, tmp_path: Path) -> None:
    model = from_pretrained(CONTAINER, modalities=["image"])
    assert model.modalities == ("image",)
    assert not any("text" in name for name, _ in model.encoder.named_parameters())
    with torch.no_grad():
        assert torch.equal(model.encoder.embed("image", PIXELS), expected[2:])
    model.save_pretrained(tmp_path / "branch")
    assert from_pretrained(tmp_path / "branch").modalities == ("image",)
    with pytest.raises(ValueError, match="no modality 'audio'"):
        from_pretrained(CONTAINER, modalities=["audio"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_save_and_load(dtype: str, tmp_path: Path) -> None:
    model = from_pretrained(CONTAINER, dtype=dtype)
    assert model.save_pretrained(tmp_path / "ours") == tmp_path / "ours"
    again = from_pretrained(tmp_path / "ours", dtype=dtype)
    assert again.config == model.config and again.fingerprint == model.fingerprint
    for (name, a), (other, b) in zip(model.encoder.named_parameters(), again.encoder.named_parameters(), strict=True):
        assert name == other and torch.equal(a, b) and a.dtype == b.dtype
    assert {p.name for p in (tmp_path / "ours").iterdir()} >= {"config.json", "model.safetensors", "README.md"}


def test_saved_models_are_whole(tmp_path: Path) -> None:
    """What a built-in model needs besides weights is saved too, and saving over itself is safe."""
    model = from_pretrained("one-peace-nano")
    model.save_pretrained(tmp_path / "ours")
    again = from_pretrained(tmp_path / "ours")
    again.save_pretrained(tmp_path / "ours")
    again = from_pretrained(tmp_path / "ours")
    assert torch.equal(again.encode_text(["a dog"]), model.encode_text(["a dog"]))
    assert again.fingerprint == model.fingerprint


def test_device(expected: Tensor) -> None:
    model = from_pretrained(CONTAINER, device="meta")
    assert model.device.type == "meta"
    assert torch.equal(features(from_pretrained(CONTAINER, device=torch.device("cpu"))), expected)


@pytest.mark.parametrize("name", ["one-peace-nano", "ofa-nano", "mico-nano"])
def test_a_model_loaded_in_inference_mode_is_like_any_other(name: str) -> None:
    with torch.inference_mode():
        model = from_pretrained(name)
    network = model.model if name == "ofa-nano" else model.encoder
    parameter = next(network.parameters()).requires_grad_(True)
    parameter.sum().backward()
    assert parameter.grad is not None and not parameter.is_inference()


def test_without_a_vocabulary_texts_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ONE_PEACE_VOCAB", raising=False)
    model = from_pretrained(write(tmp_path / "model.pt", dict(STATE)))
    with pytest.raises(InputError, match="tokenizer=FOLDER"):
        model.encode_text("a dog")
    with pytest.raises(ValueError, match="holds neither tokenizer.json"):
        from_pretrained(CONTAINER, tokenizer=tmp_path)
    with pytest.raises(ValueError, match=f"{CONTAINER.name}: not a vocabulary"):
        from_pretrained(CONTAINER, tokenizer=CONTAINER)


def test_a_vocabulary_of_another_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is set for all models does not keep this one from its pictures; one that was asked for is an error."""
    other = tmp_path / "other.json"
    Tokenizer(train_tokenizer([" a dog", " two cats"], 300)).save(other)
    (tmp_path / "model").mkdir()
    path = write(tmp_path / "model/small.pt", dict(STATE))
    with pytest.raises(ValueError, match=r"other\.json: the tokenizer has \d+ ids, the model only 40"):
        from_pretrained(path, tokenizer=other)
    monkeypatch.setenv("ONE_PEACE_VOCAB", str(other))
    with pytest.warns(UserWarning, match=r"ONE_PEACE_VOCAB=.*other\.json: its \d+ ids are not .*small\.pt"):
        model = from_pretrained(path)
    with pytest.raises(InputError, match="without a vocabulary"):
        model.encode_text("a dog")


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of"):
        from_pretrained(CONTAINER, dtype="int8")
    with pytest.raises(ValueError, match="multiple of 16"):
        from_pretrained(CONTAINER, image_size=100)
    with pytest.raises(ValueError, match="whole number of pixels, got '64'"):
        from_pretrained(CONTAINER, image_size="64")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"list of names, got 'text'; give \['text'\]"):
        from_pretrained(CONTAINER, modalities="text")
    with pytest.raises(ValueError, match="at least one modality; .* has text, image"):
        from_pretrained(CONTAINER, modalities=[])
    with pytest.raises(ValueError, match="model_type"):
        from_pretrained(CONTAINER, model_type="one_peace_segment")
    with pytest.raises(ValueError, match="Predictor.from_pretrained.*leave model_type out"):
        from_pretrained(CONTAINER, model_type="one_peace_classify")
    with pytest.raises(CheckpointError, match="no config.json"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "native"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated_files(form: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if form == "native":
        path = from_pretrained(CONTAINER).save_pretrained(tmp_path / "ours") / "model.safetensors"
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in STATE.items()}, "matching_heuristics": True}))
    else:
        write(path, dict(STATE), zipped=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=path.name):
        from_pretrained(path.parent if form == "native" else path)


def test_damaged_folder(tmp_path: Path) -> None:
    folder = from_pretrained(CONTAINER).save_pretrained(tmp_path / "ours")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"heads"', '"haeds"'))
    with pytest.raises(CheckpointError, match="'haeds'.*nearest is 'heads'"):
        from_pretrained(folder)
    (folder / "config.json").write_text(config.replace('"width": 64', '"width": 128'))
    with pytest.raises(CheckpointError, match="shape 64 in the file, 128 in the model"):
        from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        from_pretrained(folder)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither model.safetensors nor"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    "field, value",
    [
        ("width", "64"),
        ("width", 0),
        ("width", 10**15),
        ("layers", -1),
        ("layers", 10**9),
        ("layers", None),
        ("heads", 0),
        ("heads", 5),
        ("ffn_width", -1),
        ("drop_path", 1.5),
        ("layer_scale", -1),
        ("modalities", {}),
        ("text.vocab_size", -1),
        ("text.max_tokens", -1),
        ("image.image_size", -1),
        ("image.grid", "4"),
        ("decoder.layers", 10**9),
        ("decoder.heads", 0),
    ],
)
def test_impossible_configurations(field: str, value: object, folder: Path) -> None:
    """Whatever a config.json says: a `CheckpointError` that names the folder, at once."""
    values = json.loads((folder / "config.json").read_text())
    part, _, name = field.rpartition(".")
    place = values if not part else values["modalities"][part] if part in values["modalities"] else values[part]
    place[name] = value
    changed = folder.parent / "changed"
    shutil.rmtree(changed, ignore_errors=True)
    shutil.copytree(folder, changed)
    (changed / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="changed: its configuration"):
        from_pretrained(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(CONTAINER, tmp_path_factory.mktemp("folder") / "whole")


def test_a_config_without_end(folder: Path) -> None:
    shutil.copytree(folder, deep := folder.parent / "deep")
    (deep / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="deep/config.json: not valid JSON"):
        from_pretrained(deep)


def test_impossible_settings_of_an_official_file(tmp_path: Path) -> None:
    path = tmp_path / "dropped.pt"
    torch.save({"cfg": {"model": {"encoder": {"drop_path_rate": 7}}}, "model": STATE}, path)
    with pytest.raises(CheckpointError, match=r"dropped\.pt: its configuration .*drop_path is in \[0, 1\), not 7"):
        from_pretrained(path)


@pytest.mark.parametrize(
    "part, key, value",
    [("", "activation_fn", "relu"), ("", "normalize_before", False), ("image_adapter", "layernorm_embedding", True)],
)
def test_settings_of_another_model_are_refused(part: str, key: str, value: object, tmp_path: Path) -> None:
    """Most of them show in no shape: the file would load, and compute something else."""
    encoder = {part: {key: value}} if part else {key: value}
    torch.save({"cfg": {"model": {"encoder": encoder}}, "model": STATE}, tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=rf"other\.pt: encoder\.{part}.*{key} is {value!r}; ONE-PEACE models have"
    ):
        from_pretrained(tmp_path / "other.pt")


def test_settings_that_say_nothing_are_passed_over(tmp_path: Path, expected: Tensor) -> None:
    """None, and those of an adapter that the file does not have."""
    encoder = {"activation_fn": None, "scale_fc": None, "audio_adapter": {"conv_bias": True}, "text_adapter": None}
    torch.save({"cfg": {"model": {"encoder": encoder}}, "model": STATE}, tmp_path / "file.pt")
    assert torch.equal(features(from_pretrained(tmp_path / "file.pt")), expected)


def test_a_folder_whose_table_is_larger_than_its_configuration_says_is_refused(folder: Path) -> None:
    shutil.copytree(folder, smaller := folder.parent / "smaller")
    config = json.loads((smaller / "config.json").read_text())
    config["modalities"]["image"] |= {"bias_grid": 2, "image_size": 32}
    (smaller / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="bias.tables.0: shape .* in the file"):
        from_pretrained(smaller)


@pytest.mark.parametrize(
    "spec, rows",
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 2", [(512, 10, 5), (512, 3, 2), (512, 3, 2)]),
        ("[(32, 10, 5), (32, 3, 3), (32, 3, 2)]", [(32, 10, 5), (32, 3, 3), (32, 3, 2)]),
        ("[(32,10,5)] + 2 * [(32, 3, 3,)]", [(32, 10, 5), (32, 3, 3), (32, 3, 3)]),
        ([[32, 10, 5], (32, 3, 2)], [(32, 10, 5), (32, 3, 2)]),
        ("[(32, 10)]", []),
        ("[(32, 10, 5)] * open('x')", []),
        ("[(32, 10, 5)]" + " * 64" * 9, []),
        ("9" * 5000, []),
        (None, []),
    ],
)
def test_forms_of_the_waveform_convolutions(spec: object, rows: list[tuple[int, int, int]]) -> None:
    assert parse_convolutions(spec) == rows


def test_waveform_convolutions_that_are_not_those_of_the_file(tmp_path: Path) -> None:
    """Their strides are told by the settings alone."""
    encoder = {"audio_adapter": {"feature_encoder_spec": "[(7, 10, 5)]"}}
    shapes = {"adapters.audio.cls": (1, 1, 64), "adapters.audio.frames.convs.0.weight": (32, 1, 10)}
    shapes |= {"fusion.blocks.0.attention_norm.weight": (64,), "fusion.blocks.0.ffn.audio.gate.weight": (128, 64)}
    with pytest.raises(
        CheckpointError, match=r"feature_encoder_spec: .*7, 10, 5.* are not those of the tensors, .* \(32, 10\)"
    ):
        infer_config("file", shapes, {"model": {"encoder": encoder}})
    assert infer_config("file", shapes, {})["modalities"]["audio"]["convs"] == [[32, 10, 5]]


@pytest.mark.parametrize("by_image, reads", [(False, "text"), (True, "audio")])
def test_what_a_head_reads_of_texts_and_sounds(by_image: bool, reads: str) -> None:
    shapes = {f"adapters.{name}.cls": (1, 1, 64) for name in ("text", "audio")} | {"head.out.weight": (2, 64)}
    shapes |= {"fusion.blocks.0.attention_norm.weight": (64,), "fusion.blocks.0.ffn.audio.gate.weight": (128, 64)}
    head = infer_config("file", shapes, {"model": {"use_image_features": by_image}})["head"]
    assert head["reads"] == reads


@pytest.mark.parametrize(("partner", "reads"), [("image", "image"), ("audio", "audio"), ("image", "text")])
def test_what_a_head_reads_is_told_to_the_published_code(partner: str, reads: str) -> None:
    head = HeadConfig(2, reads, "cls")
    config = dataclasses.replace(tiny_models.CONFIG.with_modalities(["text", partner]), head=head)
    assert official_settings(config.to_dict())["model"]["use_image_features"] == (reads != "text")


@pytest.mark.parametrize("family", ["ofa", "mico"])
def test_models_of_other_families_are_told_as_such(family: str) -> None:
    with pytest.raises(CheckpointError, match=f"family '{family}', and one of ONE-PEACE is needed"):
        open_saved(built_in_models()[f"{family}-nano"])


def test_a_model_that_writes_is_not_taken_for_one_of_embeddings() -> None:
    with pytest.raises(ValueError, match="ofa-nano is an OFA model: .* no embeddings"):
        load_embedder("ofa-nano")
    assert load_embedder("one-peace-nano").dim == 192


def test_no_model_at_all(tmp_path: Path) -> None:
    for content in ({"weight": torch.zeros(3)}, [1, 2], {"model": {"a": "text"}}, {"model": {1: torch.zeros(1)}}):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match=r"other\.pt"):
            from_pretrained(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds tensors alone; give the folder"):
        from_pretrained(built_in_models()["one-peace-nano"] / "model.safetensors")
    (tmp_path / "cow.png").write_bytes(b"\x89PNG\r\n\x1a\n" * 10)
    with pytest.raises(CheckpointError, match=r"cow\.png: damaged or not a checkpoint"):
        from_pretrained(tmp_path / "cow.png")
    (tmp_path / "text.pt").write_text("not a checkpoint\n" * 10)
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        from_pretrained(tmp_path / "text.pt")


def test_reading_keeps_the_file_as_it_is(tmp_path: Path) -> None:
    """Mapped weights are private: what a process does with them never reaches the file."""
    path = tmp_path / "model.pt"
    for zipped in (True, False):
        write(path, dict(STATE), zipped=zipped)
        content = path.read_bytes()
        for tensor in read_official(path).official.values():
            tensor.zero_()
        assert path.read_bytes() == content
    shutil.rmtree(tmp_path)
