"""Official MiCo checkpoints: containers, old names, unhappy files, conversion. Values are in the golden numbers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import golden_mico as golden
from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.families import family_of
from one_peace.checkpoints.mico.config import infer_config, input_settings, official_settings
from one_peace.checkpoints.mico.names import current_name, tied_to, to_native, to_official
from one_peace.checkpoints.mico.official import read_mico
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.native import write_folder
from one_peace.cli.main import app
from one_peace.errors import CheckpointError
from one_peace.models.mico.config import MiCoConfig
from one_peace.models.mico.loading import build_mico
from one_peace.models.mico.model import MiCoModel
from one_peace.models.mico.presets import preset

GOLDEN = Path(__file__).parents[2] / "golden" / "mico"


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return golden.write_official(GOLDEN, tmp_path / "MiCo-g")


def rewrite(folder: Path, change: dict[str, torch.Tensor | None], rename: bool = False) -> None:
    """Replaces tensors of a checkpoint; None takes one out. `rename` gives all their names of an older version."""
    state = dict(golden.state_dict(GOLDEN)) | change
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    if rename:
        state = {"module." + name.replace("vision_encoder", "evaclip_model"): t for name, t in state.items()}
        state = {name.replace("hidden_trans_vision", "hidden_trans_video"): t for name, t in state.items()}
    torch.save(state, folder / "ckpt" / "model_step_7.pt")


def test_the_latest_weights_count(official: Path) -> None:
    (official / "ckpt" / "model_step_12.pt").write_bytes((official / "ckpt" / "model_step_7.pt").read_bytes())
    (official / "ckpt" / "optimizer_step_99.pt").write_bytes(b"")
    assert read_mico(official).path.name == "model_step_12.pt"
    assert read_mico(official / "ckpt" / "model_step_7.pt").path.name == "model_step_7.pt"
    assert family_of(official) == family_of(official / "ckpt" / "model_step_7.pt") == "mico"


def test_old_names_give_the_same_tensors(official: Path) -> None:
    new = golden.checkpoint(GOLDEN)
    rewrite(official, {}, rename=True)
    old = read_mico(official)
    assert not old.unknown
    assert old.tensors.keys() == new.tensors.keys()
    assert all(
        torch.equal(a, b) for name in new.tensors for a, b in zip(new.tensors[name], old.tensors[name], strict=True)
    )
    assert current_name("video_frame_embedding") == "vision_frame_embedding"
    # of several rules only the first applies
    assert current_name("clip_model.video.x") == "clip_model.vision.x"


def test_every_size_is_resized_as_published(official: Path, tmp_path: Path) -> None:
    folder = golden.write_official(
        GOLDEN, tmp_path / "other", vision_resolution=84, max_vision_sample_num=6, max_audio_sample_num=2
    )
    found = read_mico(folder)
    model = build_mico(found.config, found.tensors)
    assert model.tower.positions.shape[1] == 37
    frames = {name: model.memory[name].frames.shape[1] for name in ("vision", "audio", "depth")}
    assert frames == {"vision": 6, "audio": 2, "depth": 2}


def test_tables_that_settings_switch_off_stay_out(tmp_path: Path) -> None:
    found = read_mico(golden.write_official(GOLDEN, tmp_path / "none", frame_embedding_type="none"))
    model = build_mico(found.config, found.tensors)
    assert model.memory["vision"].frames is None
    assert model.memory["audio"].frames is not None


def test_only_adaptive_tables_are_resized(tmp_path: Path) -> None:
    changes = {"frame_embedding_type": "none", "max_audio_sample_num": 7}
    found = read_mico(golden.write_official(GOLDEN, tmp_path / "none", **changes))
    assert found.config["frames"]["audio"] == found.tensors["memory.audio.frames"][0].shape[1] == 3


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("visual.blocks.2.", "layers of the tower: 3 by .*, 2 by the tensors"),
        ("encoder.layer.1.", "layers of the text model: 2 by .*, 1 by the tensors"),
    ],
)
def test_a_file_without_its_last_blocks_is_no_smaller_model(official: Path, block: str, message: str) -> None:
    rewrite(official, {name: None for name in golden.state_dict(GOLDEN) if block in name})
    with pytest.raises(CheckpointError, match=message):
        read_mico(official)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contra_dim": 48}, "contra_dim: 48 by .*, 32 by the tensors"),
        ({"eva": None}, "64 has no heads of 88"),  # of the type alone
        ({"bert": None}, "layers of the text model: 12 by"),
        ({"itm_ratio": None}, "itm_ratio in .* is a number, not None"),
        ({"max_vision_sample_num": "x"}, "max_vision_sample_num in .* is a number, not 'x'"),
    ],
)
def test_settings_that_the_tensors_deny(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_mico(golden.write_official(GOLDEN, tmp_path / "other", **settings))


def test_what_does_not_fit_is_named(official: Path) -> None:
    state = golden.state_dict(GOLDEN)
    name = "multimodal_encoder.bert.encoder.layer.1.attention.self.key.weight"
    rewrite(official, {name: None})
    with pytest.raises(CheckpointError, match=r"self\.key\.weight, .*; there are"):
        read_mico(official)
    rewrite(official, {"multimodal_encoder.cls.predictions.decoder.bias": torch.ones(30522)})
    with pytest.raises(CheckpointError, match="one tensor in every model"):
        read_mico(official)
    rewrite(official, {"contra_head_v.linear.weight": None, "contra_head_x.linear.weight": torch.ones(2, 2)})
    found = read_mico(official)
    assert found.unknown == ("contra_head_x.linear.weight",)
    with pytest.raises(CheckpointError, match="contra_head_x"):
        convert(official, official.parent / "native")
    with pytest.raises(CheckpointError, match=r"contrast\.vision\.weight: missing"):
        build_mico(found.config, found.tensors)
    rewrite(official, {name: state[name][:, :3]})
    with pytest.raises(CheckpointError, match="differ in shape"):
        read_mico(official)


def test_nothing_in_a_file_runs(official: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    (official / "ckpt" / "model_step_7.pt").write_bytes(pickle.dumps({"contra_temp": Harmful()}))
    with pytest.raises(CheckpointError):
        read_mico(official)
    assert not (tmp_path / "ran").exists()
    torch.save({"contra_temp": 3}, official / "ckpt" / "model_step_7.pt")
    with pytest.raises(CheckpointError, match="dict of tensors"):
        read_mico(official)


def test_conversion_keeps_bits_dtypes_and_what_has_no_place(official: Path, tmp_path: Path) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in golden.state_dict(GOLDEN).items()}
    for name in list(state):
        if twin := tied_to(name):
            state[name] = state[twin]
    state["vision_encoder.text.token_embedding.weight"] = torch.randn(16, 32)
    torch.save(state, official / "ckpt" / "model_step_7.pt")
    native = convert(official, tmp_path / "native")
    back = convert(native, tmp_path / "back")
    again = torch.load(back / "ckpt" / "model_step_7.pt", weights_only=True)
    assert list(again) == list(state)
    assert all(again[name].dtype == state[name].dtype and torch.equal(again[name], state[name]) for name in state)
    assert json.loads((back / "log" / "hps.json").read_text()) == json.loads(
        (official / "log" / "hps.json").read_text()
    )
    # tied tensors are stored once
    assert (back / "ckpt" / "model_step_7.pt").stat().st_size < 1.1 * (
        official / "ckpt" / "model_step_7.pt"
    ).stat().st_size


@pytest.mark.parametrize("origin", [{"file": "../../evil.pt"}, {"file": 7}, {"names": [3]}, {"settings": []}])
def test_a_damaged_note_of_the_origin_is_refused(origin: dict[str, object], official: Path, tmp_path: Path) -> None:
    note = convert(official, tmp_path / "native") / "official.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | origin))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"official\.json: "):
        convert(note.parent, tmp_path / "back")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["eva01", "eva02", "post_norm"])
def test_settings_of_our_own_models_come_back(kind: str) -> None:
    values = preset("mico-tiny").to_dict()
    values["tower"] |= {"kind": kind, "rotary_grid": 8}
    values["text"]["dropout"] = 0.0
    config = MiCoConfig.from_dict(values)
    with torch.device("meta"):
        model = MiCoModel(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = MiCoConfig.from_dict(infer_config(config.name, shapes, official_settings(config.to_dict())["model_cfg"]))
    if kind != "eva02":
        values["tower"]["rotary_grid"] = 16  # which other towers do not have
    assert found == MiCoConfig.from_dict(values)
    for native in shapes:
        official = to_official(native, eva02=kind == "eva02")
        assert official
        assert {t.name for name in official if isinstance(t := to_native(name), Target)} == {native}


def test_the_published_sizes_go_without_saying() -> None:
    """Published settings have no entries `eva` and `bert`."""
    with torch.device("meta"):
        model = MiCoModel(preset("mico-giant"))
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    settings = {"vision_encoder_type": "evaclip01_giant"}
    found = MiCoConfig.from_dict(infer_config("giant", shapes, settings))
    assert (found.tower, found.text) == (model.config.tower, model.config.text)
    for block, message in (("tower.blocks.39.", "tower: 40 by .*, 39"), ("text.blocks.11.", "model: 12 by .*, 11")):
        with pytest.raises(CheckpointError, match=message):
            infer_config("less", {name: shape for name, shape in shapes.items() if block not in name}, settings)


@pytest.mark.parametrize("kind", ["beats", "ast"])
def test_captioners_come_back(kind: str, tmp_path: Path) -> None:
    """VAST's: a separate audio encoder, no depth; its relative bias is stored with every layer."""
    values = preset("mico-nano").to_dict()
    values["tower"] |= {"layers": 1, "image_size": 28}
    values["text"] |= {"vocab_size": 200, "max_positions": 32, "heads": 1}
    values["frames"] = {"vision": 2, "audio": 3}
    audio = {"kind": kind, "width": 64, "layers": 2, "heads": 1, "ffn_width": 96}
    beats = {"patch_width": 32, "position_kernel": 16, "position_groups": 4, "buckets": 32, "max_distance": 800}
    values["audio_encoder"] = audio | (beats if kind == "beats" else {"mel_bins": 32, "frames": 64})
    values["modalities"] = input_settings(28, values["frames"], values["audio_encoder"])
    model = MiCoModel(MiCoConfig.from_dict(values))
    native = write_folder(
        tmp_path / "native", model.config.to_dict(), {name: [p.detach()] for name, p in model.named_parameters()}
    )
    file = convert(native, tmp_path / "captioner") / "ckpt" / "model_step_0.pt"
    state = torch.load(file, weights_only=True)
    if kind == "beats":
        name = "audio_encoder.encoder.layers.{}.self_attn.relative_attention_bias.weight"
        state[name.format(1)] = state[name.format(0)]
        torch.save(state, file)
    again = read_mico(tmp_path / "captioner")
    assert not again.unknown
    assert MiCoConfig.from_dict(again.config | {"name": model.config.name}) == model.config
    loaded = build_mico(again.config, again.tensors)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), loaded.parameters(), strict=True))


def test_the_command_takes_the_vocabulary_along(official: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["convert", str(official), str(tmp_path / "a")])
    assert run.exit_code == 0 and "no vocab.txt" in run.output
    run = CliRunner().invoke(app, ["convert", str(official), str(tmp_path / "b"), "--tokenizer", str(GOLDEN)])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "b" / "tokenizer.json").is_file()
    run = CliRunner().invoke(app, ["convert", str(tmp_path / "b"), str(tmp_path / "again")])
    assert run.exit_code == 0 and (tmp_path / "again" / "tokenizer.json").is_file(), run.output
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "b")])
    assert "fingerprint" in shown.output and "tower" in shown.output


def test_unread_names() -> None:
    assert to_native("vision_encoder.visual.head.weight") is Kind.UNUSED
    assert to_native("multimodal_encoder.bert.embeddings.position_ids") is Kind.BUFFER
    assert to_native("vision_encoder.visual.blocks.3.attn.rope.freqs_cos") is Kind.BUFFER
    assert to_native("something.else") is None
    shared = "audio_encoder.encoder.layers.4.self_attn.relative_attention_bias.weight"
    assert to_native(shared) == Target("beats.bias.weight")
