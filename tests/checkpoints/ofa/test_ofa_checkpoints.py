"""Published OFA checkpoints: both layouts, older names, what does not fit, and back bit for bit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.families import family_of
from one_peace.checkpoints.ofa.config import infer_config, official_settings
from one_peace.checkpoints.ofa.growth import fit_tables, grow_rows
from one_peace.checkpoints.ofa.names import TIED, from_port, to_official, to_port
from one_peace.checkpoints.ofa.official import native_pieces, published_buffer, read_ofa
from one_peace.checkpoints.registry import built_in_models
from one_peace.errors import CheckpointError
from one_peace.models.loading import from_pretrained
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.loading import SavedOfa, load_model, open_saved, start_from
from one_peace.models.ofa.model import OfaModel
from tiny_ofa import CONFIG, tiny_model, tiny_ofa, vocabulary

BUFFERS = ("version", "token_rp_bucket", "image_rp_bucket")


def official_state(model: OfaModel) -> dict[str, Tensor]:
    """The state dict that the published code would save of a model, in half precision."""
    state: dict[str, Tensor] = {}
    for native, tensor in model.state_dict().items():
        names = to_official(native)
        for name, piece in zip(names, tensor.chunk(len(names)) if tensor.dim() else [tensor], strict=True):
            state[name] = piece.half().clone() if piece.is_floating_point() else piece
    state |= {name: state[source] for name, source in TIED.items()}
    for name in [f"{side}.{kind}" for side in ("encoder", "decoder") for kind in BUFFERS] + [
        "decoder.image_position_idx"
    ]:
        state[name] = published_buffer(name, model.config.to_dict())
    return state


def official_file(path: Path, state: dict[str, Tensor], **container: Any) -> Path:
    torch.save({"args": None, "cfg": official_settings(CONFIG.to_dict()), "model": state, **container}, path)
    return path


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official_state(tiny_model())


@pytest.fixture
def file(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    vocabulary().tokenizer.save(tmp_path / "tokenizer.json")
    return official_file(tmp_path / "ofa_tiny.pt", state, extra_state={"epoch": 3}, optimizer_history=[])


def test_a_published_file_is_our_model(file: Path) -> None:
    assert family_of(file) == "ofa"
    loaded = from_pretrained(file)
    assert loaded.config == OfaConfig.from_dict(CONFIG.to_dict() | {"name": "ofa_tiny"})
    own = tiny_model().state_dict()
    assert all(
        torch.equal(tensor, own[name].to(torch.float16).to(tensor.dtype))
        for name, tensor in loaded.model.state_dict().items()
    )
    assert loaded.caption("tests/nothing.png", on_error="skip").kept == []


def test_a_file_saved_from_parallel_training(tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = official_file(tmp_path / "ofa_tiny.pt", {f"module.{name}": tensor for name, tensor in state.items()})
    assert family_of(file) == "ofa"
    plain = read_ofa(official_file(tmp_path / "plain.pt", state)).tensors
    wrapped = read_ofa(file).tensors
    assert list(wrapped) == list(plain)
    assert all(torch.equal(wrapped[name][0], plain[name][0]) for name in plain)


def test_there_and_back_bit_for_bit(file: Path, tmp_path: Path, state: dict[str, Tensor]) -> None:
    convert(file, tmp_path / "folder")
    assert family_of(tmp_path / "folder") == "ofa"
    convert(tmp_path / "folder", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back["model"]) == list(state)
    assert all(torch.equal(back["model"][n], t) and back["model"][n].dtype == t.dtype for n, t in state.items())
    assert back["extra_state"] == {"epoch": 3} and back["cfg"] == torch.load(file, weights_only=True)["cfg"]
    tied = [back["model"][name].data_ptr() for name in (*TIED, "encoder.embed_tokens.weight")]
    assert len(set(tied)) == 1


@pytest.mark.parametrize(("name", "family"), [("one-peace-nano", "one_peace"), ("mico-nano", "mico")])
def test_models_of_other_families_are_told_as_such(name: str, family: str) -> None:
    with pytest.raises(CheckpointError, match=f"family '{family}', and one of OFA is needed"):
        open_saved(built_in_models()[name])


def test_averaged_weights_are_those_that_count(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """As in the published evaluation of visual questions; the file of a converted folder has them as its model."""
    averaged = {name: tensor.float() + 0.5 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    extra = {"epoch": 3, "ema": averaged, "ema_fp32_params": {"encoder.layer_norm.weight": torch.zeros(32)}}
    file = official_file(tmp_path / "vqa.pt", state, extra_state=extra)
    assert torch.equal(read_ofa(file).tensors["encoder.norm.weight"][0], averaged["encoder.layer_norm.weight"])
    convert(file, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert all(torch.equal(back["model"][name], tensor) for name, tensor in averaged.items())
    assert back["extra_state"] == {"epoch": 3}


def test_the_transformers_layout_there_and_back(file: Path, tmp_path: Path) -> None:
    convert(file, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "port", form="transformers")
    assert family_of(tmp_path / "port") == "ofa"
    port = torch.load(tmp_path / "port" / "pytorch_model.bin", weights_only=True)
    assert "decoder.layers.0.cross_attn_mid_layer_norm.weight" in port and "encoder.version" not in port
    assert len(port["decoder.image_position_idx"]) == 1 + 9 + 768
    first, second = read_ofa(file), read_ofa(tmp_path / "port")
    assert {**second.config, "name": ""} == {**first.config, "name": ""}
    assert all(torch.equal(torch.cat(first.tensors[n]), torch.cat(t)) for n, t in second.tensors.items() if t[0].dim())
    convert(tmp_path / "port", tmp_path / "again")
    convert(tmp_path / "again", tmp_path / "port2")
    again = torch.load(tmp_path / "port2" / "pytorch_model.bin", weights_only=True)
    assert list(again) == list(port) and all(torch.equal(again[n], port[n]) for n in port)
    assert (tmp_path / "port2" / "config.json").read_text() == (tmp_path / "port" / "config.json").read_text()
    kept = (tmp_path / "folder" / "config.json").read_bytes()
    for source, problem in (
        ("folder", "is the model itself"),
        ("again", "holds another model"),
    ):
        with pytest.raises(ValueError, match=problem):
            convert(tmp_path / source, tmp_path / "folder", form="transformers")
    assert (tmp_path / "folder" / "config.json").read_bytes() == kept


def test_a_model_of_ours_becomes_a_published_file(tmp_path: Path) -> None:
    ofa = tiny_ofa(
        residual_scale=True, prompt="prev_output", image_mean=(0.485, 0.456, 0.406), image_std=(0.229, 0.224, 0.225)
    )
    ofa.save_pretrained(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "official.pt")
    stored = torch.load(tmp_path / "official.pt", weights_only=True)
    del stored["extra_state"]  # the config word for word: without it the settings must say the same
    torch.save(stored, tmp_path / "tiny.pt")
    assert open_saved(tmp_path / "tiny.pt").config == ofa.config
    with pytest.raises(CheckpointError, match="no residual_scale"):
        convert(tmp_path / "folder", tmp_path / "port", form="transformers")
    assert not (tmp_path / "port").exists()


def test_the_folder_gives_the_same_model(tmp_path: Path) -> None:
    ofa = tiny_ofa()
    ofa.save_pretrained(tmp_path / "folder")
    assert {p.name for p in (tmp_path / "folder").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md",
    }  # fmt: skip
    again = from_pretrained(tmp_path / "folder")
    assert again.config == ofa.config
    assert all(torch.equal(t, ofa.model.state_dict()[n]) for n, t in again.model.state_dict().items())
    parameters = sum(p.numel() for p in ofa.model.parameters())
    assert f"| parameters | {parameters:,} |" in (tmp_path / "folder" / "README.md").read_text()


def test_everything_that_does_not_fit_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    wrong = dict(state)
    del wrong["encoder.pos_ln.bias"]
    wrong["decoder.layers.1.fc1.weight"] = torch.zeros(3, 3)
    wrong["encoder.encoder_prompt_encoder.embedding.weight"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(official_file(tmp_path / "wrong.pt", wrong))
    for name in ("encoder.positions.text_norm.bias", "decoder.layers.1.ffn.up.weight", "encoder_prompt_encoder"):
        assert name in str(caught.value)
    with pytest.raises(CheckpointError, match="encoder_prompt_encoder"):
        convert(tmp_path / "wrong.pt", tmp_path / "folder")


def test_tied_tables_that_differ_are_refused(state: dict[str, Tensor]) -> None:
    untied = state | {"decoder.output_projection.weight": state["encoder.embed_tokens.weight"] + 1}
    with pytest.raises(CheckpointError, match="decoder.output_projection.weight differs from"):
        native_pieces(untied)
    half = {name: t for name, t in state.items() if name != "encoder.layers.1.self_attn.k_proj.bias"}
    with pytest.raises(CheckpointError, match="made of encoder.layers.1.self_attn.q_proj.bias"):
        native_pieces(half)


def test_absent_copies_of_the_token_table_are_no_loss(state: dict[str, Tensor]) -> None:
    alone = {name: t for name, t in state.items() if name not in TIED}
    assert native_pieces(alone).tensors.keys() == native_pieces(state).tensors.keys()


def test_names_of_older_files(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Joined projections and numbered norms are read, and come back as they were."""
    older: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if "layers.0.encoder_attn.q_proj." in name:
            parts = [state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            older[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not ("layers.0.encoder_attn." in name and "_proj." in name and "out_proj" not in name):
            older[name.replace("layers.0.encoder_attn_layer_norm.", "layers.0.layer_norms.1.")] = tensor
    assert native_pieces(older).tensors.keys() == native_pieces(state).tensors.keys()
    file = official_file(tmp_path / "older.pt", older)
    model = load_model(open_saved(file))
    torch.testing.assert_close(
        model.decoder.layers[0].cross.query.weight, state["decoder.layers.0.encoder_attn.q_proj.weight"].float()
    )
    convert(file, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    assert list(back) == list(older) and all(torch.equal(back[n], older[n]) for n in older)


def test_frozen_norms_and_unused_heads(tmp_path: Path, state: dict[str, Tensor]) -> None:
    frozen = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    frozen["classification_heads.mnli.dense.weight"] = torch.ones(2, 2)
    file = official_file(tmp_path / "frozen.pt", frozen)
    model = load_model(open_saved(file))
    assert model.encoder.trunk.norm.num_batches_tracked == 0
    convert(file, tmp_path / "folder")
    load_model(open_saved(tmp_path / "folder"))
    convert(tmp_path / "folder", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    assert list(back) == list(frozen) and torch.equal(back["classification_heads.mnli.dense.weight"], torch.ones(2, 2))


@pytest.mark.parametrize(
    "field, value",
    [
        ("width", "32"),
        ("heads", 0),
        ("encoder_layers", 10**9),
        ("decoder_layers", -1),
        ("trunk", [10**9, 1, 1]),
        ("codes", -1),
        ("text_positions", 0),
        ("dropout", 1.5),
    ],
)
def test_impossible_configurations(tmp_path: Path, field: str, value: object) -> None:
    tiny_ofa().save_pretrained(folder := tmp_path / "changed")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {field: value}))
    with pytest.raises(CheckpointError, match="changed: its configuration"):
        from_pretrained(folder)


def test_settings_in_an_old_namespace(tmp_path: Path, state: dict[str, Tensor]) -> None:
    stored = official_settings(CONFIG.to_dict())
    flat = argparse.Namespace(
        **stored["model"], **{k: v for k, v in stored["task"].items() if k not in stored["model"]}
    )
    torch.save({"args": flat, "model": state}, tmp_path / "old.pt")
    assert open_saved(tmp_path / "old.pt").config.bins == CONFIG.bins
    torch.save(state, tmp_path / "bare.pt")
    bare = open_saved(tmp_path / "bare.pt").config
    assert (bare.code_grid, bare.heads, bare.codes, bare.bins) == (CONFIG.code_grid, CONFIG.heads, 0, 0)


def test_files_that_want_to_run_code_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    with pytest.raises(CheckpointError, match="refused"):
        from_pretrained(official_file(tmp_path / "evil.pt", state, task_state=Evil()))


def test_what_is_no_ofa_model() -> None:
    with pytest.raises(CheckpointError, match="holds no OFA model, it lacks tokens.weight"):
        infer_config("x", {}, {})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("activation_fn", "relu"),
        ("encoder_normalize_before", False),
        ("decoder_normalize_before", False),
        ("no_scale_embedding", False),
        ("share_all_embeddings", False),
    ],
)
def test_settings_of_another_model_are_refused(
    setting: str, value: object, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    cfg = official_settings(CONFIG.to_dict())
    other = official_file(tmp_path / "other.pt", state, cfg=cfg | {"model": cfg["model"] | {setting: value}})
    with pytest.raises(CheckpointError, match=f"other: its setting {setting} is {value!r}"):
        read_ofa(other)
    untold = official_file(tmp_path / "untold.pt", state, cfg=cfg | {"model": cfg["model"] | {setting: None}})
    assert read_ofa(untold).config["width"] == CONFIG.width


def test_another_activation_of_the_transformers_layout_is_refused(file: Path, tmp_path: Path) -> None:
    convert(file, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "port", form="transformers")
    config = tmp_path / "port" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(CheckpointError, match="activation_fn is 'relu'"):
        read_ofa(tmp_path / "port")


def test_small_tables_grow(tmp_path: Path, state: dict[str, Tensor]) -> None:
    small = state | {"encoder.embed_image_positions.weight": state["encoder.embed_image_positions.weight"][:40]}
    model = load_model(open_saved(official_file(tmp_path / "small.pt", small)))
    table = model.encoder.positions.image.weight
    assert table.shape[0] == 65 and torch.equal(table[:40], small["encoder.embed_image_positions.weight"].float())
    assert 0.5 < table[40:].std() * 32**0.5 < 1.5
    generator = torch.Generator().manual_seed(0)
    assert grow_rows(torch.zeros(5, 4), 3, generator).shape == (5, 4)
    fitted = fit_tables({"tokens.weight": [torch.ones(9, 4)]}, 65, 8)
    assert fitted["tokens.weight"][0].shape == (8, 4)


def test_a_model_starts_from_a_part_of_another(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """What a file lacks keeps its values, tables grow, and shapes that differ are named."""
    part = {n: t for n, t in state.items() if "image_rel_pos_table_list" not in n and n not in TIED}
    part["encoder.embed_tokens.weight"] = part["encoder.embed_tokens.weight"][:301]
    pieces = native_pieces(part).tensors
    model = tiny_model(seed=1)
    before = model.encoder.relative.image.tables[0].clone()
    report = start_from(model, SavedOfa(tmp_path, CONFIG, pieces), torch.Generator().manual_seed(0))
    assert torch.equal(model.encoder.relative.image.tables[0], before)
    assert torch.equal(model.tokens.weight[:301], part["encoder.embed_tokens.weight"].float())
    assert all(".relative.image." in name for name in report.fresh) and len(report.fresh) == 4 and not report.unused
    pieces["encoder.norm.bias"] = [torch.zeros(3)]
    with pytest.raises(CheckpointError, match="encoder.norm.bias"):
        start_from(model, SavedOfa(tmp_path, CONFIG, pieces))


@pytest.mark.parametrize(
    "official",
    [
        "encoder.layers.3.attn_ln.bias",
        "decoder.layers.11.encoder_attn_layer_norm.weight",
        "decoder.layers.0.encoder_attn.c_attn",
        "decoder.layers.2.cross_attn_ln.weight",
        "encoder.layers.0.fc1.weight",
        "decoder.layers.1.ffn_layernorm.bias",
    ],
)
def test_port_names_both_ways(official: str) -> None:
    assert from_port(to_port(official)) == official and from_port(official) == official
