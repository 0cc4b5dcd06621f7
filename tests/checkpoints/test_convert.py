from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from one_peace.checkpoints.convert import convert
from one_peace.checkpoints.one_peace.config import OFFICIAL_MODALITIES
from one_peace.checkpoints.pickles import load_pickle
from one_peace.cli.main import app
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality, list_modalities
from one_peace.modalities.text import TextConfig
from one_peace.models import from_pretrained
from one_peace.models.one_peace.config import HeadConfig, OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.loading import load_for_prediction
from one_peace.models.one_peace.model import OnePeaceEncoder
from tiny_mico import tiny_mico
from tiny_ofa import tiny_ofa

GOLDEN = Path(__file__).parents[1] / "golden" / "one_peace"
CONTAINER = GOLDEN / "fixture_x_checkpoint_small.pt"


def assert_same(left: dict, right: dict) -> None:
    assert list(left) == list(right)
    for name in left:
        a, b = (torch.as_tensor(t if isinstance(t, torch.Tensor) else t.copy()) for t in (left[name], right[name]))
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)), name


def test_container_round_trip(tmp_path: Path) -> None:
    convert(CONTAINER, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pt")
    before, after = load_pickle(CONTAINER), load_pickle(tmp_path / "back.pt")
    assert_same(before["model"], after["model"])
    assert before["cfg"] == after["cfg"]
    assert (tmp_path / "back.pt").stat().st_size < 1.1 * CONTAINER.stat().st_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_state_dict_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in load_pickle(CONTAINER)["model"].items()}
    state["encoder_wrapper.image_adapter.rp_bucket"] += 1  # not what the shapes say: kept, not recomputed
    state["encoder_wrapper.image_adapter.rel_pos_table.weight"] = state.pop(
        "encoder_wrapper.image_adapter.rel_pos_table_list.0.weight"
    )
    torch.save(state, tmp_path / "state.pt")
    convert(tmp_path / "state.pt", tmp_path / "ours", max_shard_bytes=100_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists()
    convert(tmp_path / "ours", tmp_path / "back.pt")
    assert_same(state, load_pickle(tmp_path / "back.pt"))


def test_native_round_trip(tmp_path: Path) -> None:
    state = {n: t for n, t in load_pickle(CONTAINER)["model"].items() if "decoder_wrapper" not in n or "cls" not in n}
    torch.save(state, tmp_path / "state.pt")
    convert(tmp_path / "state.pt", tmp_path / "ours")
    (tmp_path / "ours" / "official.json").unlink()  # as if it had been trained here
    convert(tmp_path / "ours", tmp_path / "official.pt")
    convert(tmp_path / "official.pt", tmp_path / "back")
    weights = "model.safetensors"
    assert_same(load_file(tmp_path / "ours" / weights), load_file(tmp_path / "back" / weights))
    assert (tmp_path / "ours/config.json").read_text() == (tmp_path / "back/config.json").read_text()
    assert set(state) <= set(load_pickle(tmp_path / "official.pt")["model"])


@pytest.mark.parametrize("name", [name for name in list_modalities() if name not in OFFICIAL_MODALITIES])
def test_modalities_that_the_published_code_does_not_know(name: str, tmp_path: Path) -> None:
    modalities = {"text": TextConfig(vocab_size=300), name: get_modality(name).preset(32)}
    OnePeace(OnePeaceEncoder(OnePeaceConfig("toy", 32, 2, 2, 32, modalities)), {}).save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "official.pt")
    convert(tmp_path / "official.pt", tmp_path / "back")
    assert_same(load_file(tmp_path / "ours/model.safetensors"), load_file(tmp_path / "back/model.safetensors"))
    assert (tmp_path / "ours/config.json").read_text() == (tmp_path / "back/config.json").read_text()


def test_vision_round_trip(tmp_path: Path) -> None:
    convert(CONTAINER, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "vision.pkl", form="vision")
    vision = load_pickle(tmp_path / "vision.pkl")
    assert vision["matching_heuristics"] is True
    assert "image_adapter.rp_bucket" in vision["model"] and "encoder.layers.2.gamma_1" in vision["model"]
    assert not any(word in name for name in vision["model"] for word in ("text", "proj_", "mask", "wrapper"))
    convert(tmp_path / "vision.pkl", tmp_path / "branch")
    convert(tmp_path / "branch", tmp_path / "back.pkl")
    assert_same(vision["model"], load_pickle(tmp_path / "back.pkl")["model"])


def test_unknown_tensors_are_named(tmp_path: Path) -> None:
    state = dict(load_pickle(CONTAINER)["model"]) | {"surprise.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"surprise\.weight"):
        convert(tmp_path / "state.pt", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_parts_of_several_dtypes_are_no_one_tensor(tmp_path: Path) -> None:
    state = {
        n: t.double() if "layers.1.self_attn.q_proj" in n else t for n, t in load_pickle(CONTAINER)["model"].items()
    }
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(
        ValueError, match=r"blocks\.1\.attention\.qkv\.weight: its parts are of torch.float32, torch.float64"
    ):
        convert(tmp_path / "state.pt", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_failed_export_leaves_nothing(tmp_path: Path) -> None:
    convert(CONTAINER, tmp_path / "ours")
    (tmp_path / "ours" / "official.json").write_text("{")
    with pytest.raises(CheckpointError, match="official.json"):
        convert(tmp_path / "ours", tmp_path / "back.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["ours"]


def command(*arguments: Path | str) -> str:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_official_to_ours_and_back(tmp_path: Path) -> None:
    assert "add tokenizer.json" in command(CONTAINER, tmp_path / "ours")
    command(tmp_path / "ours", tmp_path / "back.pt")
    assert_same(load_pickle(CONTAINER)["model"], load_pickle(tmp_path / "back.pt")["model"])


def test_command_ours_to_official_and_back(tmp_path: Path) -> None:
    """A model of ours comes back whole: weights, configuration, vocabulary, vectors."""
    model = from_pretrained("one-peace-nano", dtype="float16")
    model.save_pretrained(tmp_path / "ours")
    assert "nano.tokenizer.json" in command(tmp_path / "ours", tmp_path / "nano.pt")
    command(tmp_path / "nano.pt", tmp_path / "back")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name
    assert from_pretrained(tmp_path / "nano.pt").fingerprint == model.fingerprint
    assert (tmp_path / "nano.pt").stat().st_size < 1.1 * (tmp_path / "ours" / "model.safetensors").stat().st_size + 3e7


def test_command_takes_the_names_that_from_pretrained_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "one-peace.pt").write_bytes(CONTAINER.read_bytes())
    monkeypatch.setenv("ONE_PEACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONE_PEACE_WEIGHTS_URL", (tmp_path / "host").as_uri())
    command("ONE-PEACE", tmp_path / "ours")
    fetched = tmp_path / "cache" / "one-peace.pt"
    assert from_pretrained(tmp_path / "ours").fingerprint == from_pretrained(fetched).fingerprint
    command("one-peace-nano", tmp_path / "nano.pt")
    assert from_pretrained(tmp_path / "nano.pt").fingerprint == from_pretrained("one-peace-nano").fingerprint


def test_command_refuses_in_one_line(tmp_path: Path) -> None:
    for arguments, part in (
        ([tmp_path / "absent.pt", tmp_path / "a"], "no such file"),
        (["one-peace-nanno", tmp_path / "a"], "did you mean one-peace-nano"),
        ([tmp_path, tmp_path / "b.pt"], "no folder with a config.json"),
    ):
        result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
        assert result.exit_code == 1 and part in result.output and result.output.count("\n") == 1


def test_exported_tensors_have_storages_of_their_own(tmp_path: Path) -> None:
    convert(CONTAINER, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pt")
    state = torch.load(tmp_path / "back.pt", weights_only=True)["model"]
    for name, tensor in state.items():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
    assert len({t.untyped_storage().data_ptr() for t in state.values()}) == len(state)
    save_file(state, tmp_path / "back.safetensors")


def test_type_embeddings_and_heads_come_back(tmp_path: Path) -> None:
    state = {n: t for n, t in load_pickle(CONTAINER)["model"].items() if "decoder" not in n and "mask_" not in n}
    state |= {f"encoder_wrapper.{m}_adapter.type_embedding": torch.randn(1, 1, 64) for m in ("text", "image")}
    state["encoder_wrapper.image_adapter.type_embedding_2"] = torch.randn(1, 1, 64)
    state |= {"classify_head.norm.weight": torch.randn(64), "classify_head.norm.bias": torch.randn(64)}
    state |= {
        "classify_head.classifier.0.weight": torch.randn(96, 128),
        "classify_head.classifier.0.bias": torch.randn(96),
    }
    state |= {f"classify_head.classifier.1.{p}": torch.randn(96) for p in ("weight", "bias")}
    state |= {
        "classify_head.classifier.3.weight": torch.randn(2, 96),
        "classify_head.classifier.3.bias": torch.randn(2),
    }
    torch.save({"model": state}, tmp_path / "nlvr2.pt")
    convert(tmp_path / "nlvr2.pt", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pt")
    assert_same(state, load_pickle(tmp_path / "back.pt")["model"])
    a, b = from_pretrained(tmp_path / "nlvr2.pt"), from_pretrained(tmp_path / "ours")
    assert a.fingerprint == b.fingerprint
    (first, _), (second, _) = load_for_prediction(tmp_path / "nlvr2.pt"), load_for_prediction(tmp_path / "ours")
    assert first.config.head == second.config.head == HeadConfig(2, "text", "cls", hidden=96, pictures=2)
    for (name, ours), theirs in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("family", ["one_peace", "ofa", "mico"])
def test_a_full_disk_names_the_target_and_leaves_nothing(tmp_path: Path, family: str) -> None:
    source, place = tmp_path / "source", tmp_path / "disk"
    place.mkdir()
    if family == "one_peace":
        convert(CONTAINER, source)
    else:
        (tiny_ofa() if family == "ofa" else tiny_mico()).save_pretrained(source)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    forms = {"one_peace": ("official", "vision"), "ofa": ("official", "transformers"), "mico": ("official",)}[family]
    for form in forms:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            with pytest.raises(OSError, match="disk/model"):
                convert(source, place / "model.pt", form=form)  # type: ignore[arg-type]
            with pytest.raises(OSError, match="disk/ours"):
                from_pretrained(source).save_pretrained(place / "ours")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not [path for path in place.rglob("*") if path.is_file()]
