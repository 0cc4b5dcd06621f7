"""Every reference file in tests/golden, through the checks of `parity.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import golden_ofa
import parity
import parity_files
import parity_ofa_losses
import parity_one_peace_tokens
import tiny_ofa
from one_peace.models.ofa.layers import CrossAttention
from one_peace.objectives.sequence import SequenceLoss
from parity_ofa import attention_weights

GOLDEN = Path(__file__).parent / "golden"
FILES = parity_files.fixtures(GOLDEN)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_matches_the_reference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity_ofa_metrics.has_meteor", lambda: False)  # ten seconds of Java
    skip_without_words(path.stem)
    check = parity.find_check(path.stem)
    assert check is not None
    result = parity.run_check(path, check)
    assert result.count and not result.failures, result.failures
    assert not [line for line in result.left_out if line.endswith(parity.UNKNOWN)]


def skip_without_words(stem: str) -> None:
    worded = any(word in stem for word in ("tokenizer", "dataset_items"))
    if worded and not parity_one_peace_tokens.vocabulary_folder().exists():
        pytest.skip("the published vocabulary is not here; set ONE_PEACE_VOCAB to its folder")


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]
"""What is done to the meta and the tensors of a file."""


def failures(monkeypatch: pytest.MonkeyPatch, file: str, change: Change) -> list[str]:
    """What the check of a file says after a change."""
    path = GOLDEN / file
    skip_without_words(path.stem)
    fixture = parity_files.load_fixture(path)
    tensors = {name: fixture.tensors[name].clone() for name in fixture.tensors}
    change(fixture.meta, tensors)
    changed = parity_files.Fixture(path, fixture.meta, parity_files.Tensors(tensors), fixture.listed)
    monkeypatch.setattr(parity, "load_fixture", lambda _: changed)
    check = parity.find_check(path.stem)
    assert check is not None
    return parity.run_check(path, check).failures


NUMBERS = [
    ("one_peace/fixture2_pretrain_vl.json", "out.i2t_ncorrect"),
    ("one_peace/fixture2_pretrain_vl.json", "out.logit_scale_exp"),
    ("one_peace/fixture3_pretrain_al.json", "out.t2a_ncorrect"),
    ("one_peace/fixture8_image.json", "out.refcoco_size_up"),
    ("one_peace/fixture_x_ema.json", "ema2.weight"),
    ("one_peace/fixture_x_metrics.json", "map_ap"),
    ("one_peace/fixture_x_rel_pos_buckets.json", "text_256_row0_raw"),
    ("mico/01b_vit_internals.json", "projected"),
    ("mico/05_generation.json", "captioner.first_step_attention_mask"),
    ("mico/05_generation.json", "plain.greedy.top1_top2_gap"),
]


@pytest.mark.parametrize(("file", "name"), NUMBERS)
def test_a_changed_number_fails(file: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is no feature, loss or gradient, at the end of its tensor."""

    def change(meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[-1] += 1 if not tensors[name].is_floating_point() else 1e-3 * tensors[name].abs().max()

    assert failures(monkeypatch, file, change)


FACTS: list[tuple[str, tuple[str | int, ...], object]] = [
    ("one_peace/fixture3_pretrain_al.json", ("frozen", 0), "logit_scale"),
    ("one_peace/fixture3_pretrain_al.json", ("criterion", "dcl_audio_alpha"), 0.9),
    ("one_peace/fixture7_tokenizer.json", ("rows", 1, "aqa", 0), 11),
    ("one_peace/fixture7_tokenizer.json", ("rows", 1, "bpe_ids"), "257 3290"),
    ("one_peace/fixture7_tokenizer.json", ("rows", 1, "dataset_refcoco_clean70"), "a dog"),
    ("one_peace/fixture7_tokenizer.json", ("batch_padded", 0, 2), 2),
    ("one_peace/fixture7_tokenizer.json", ("specials", "eos"), 3),
    ("one_peace/fixture7_tokenizer.json", ("last_symbols", 0), "1"),
    ("one_peace/fixture7_tokenizer.json", ("whole_word_mask", "ones"), 33143),
    ("one_peace/fixture8_audio.json", ("mono_1s", "mask_length"), 51),
    ("one_peace/fixture9_vision_cls_64_gp0.json", ("missing",), ["head.weight"]),
    ("one_peace/fixture9_vision_cls_64_gp0.json", ("converted_keys", "image_adapter.pos_embed"), [18, 64]),
    ("one_peace/fixture_x_metrics.json", ("map",), 0.5),
    ("one_peace/fixture_x_metrics.json", ("recall", "r_mean"), 85.0),
    ("one_peace/fixture_x_optim.json", ("param_groups", "classify_al_0.9", 0, "params", 0), "head_unknown"),
    ("ofa/state_dict_tiny.json", ("param_groups", "encoder.embed_tokens"), 15220993),
    ("ofa/state_dict_tiny.json", ("args", "image_bucket_size"), 43),
    ("ofa/state_dict_tiny.json", ("entries", 23, "dtype"), "float16"),
    ("ofa/tokenizer.json", ("vocab", "dict_txt_lines"), 50261),
    ("ofa/dataset_items.json", ("boxes", "num_bins"), 999),
    ("ofa/dataset_items.json", ("boxes", "patch_image_size"), 480),
    ("ofa/dataset_items.json", ("boxes", "cases", 0, "bins", 0), 70),
    ("ofa/generation.json", ("cases", "beam5_caption", "strategy"), "DiverseBeamSearch"),
    ("ofa/generation.json", ("cases", "beam5_caption", "opts", "unk_penalty"), -9.0),
    ("ofa/generation.json", ("code_first_id",), 201),
    ("ofa/losses.json", ("cases", "pretrain_v1_v2", "nll_loss"), 24.137),
    ("ofa/losses.json", ("trie_answers", 4, 1), 12),
    ("ofa/metrics.json", ("bleu_per", 0, 0), 0.99999999),
    ("ofa/scst.json", ("model_step", "nsentences"), 16),
    ("ofa/transforms.json", ("cases", 9, "args", 1, 2), 129),
    ("ofa/transforms.json", ("cases", 8, "op"), "RandomAugment Contrast"),
    ("mico/state_dict_vitg.json", ("n_parameters_unique",), 1287555263),
    ("mico/state_dict_vitg.json", ("parameters_by_group", "itm_head"), 593667),
]


@pytest.mark.parametrize(
    ("file", "place", "value"), FACTS, ids=[f"{Path(file).stem}-{place[-1]}" for file, place, _ in FACTS]
)
def test_a_changed_fact_fails(
    file: str, place: tuple[str | int, ...], value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does one of the JSON."""

    def change(meta: Any, tensors: dict[str, Tensor]) -> None:
        for step in place[:-1]:
            meta = meta[step]
        meta[place[-1]] = value

    assert failures(monkeypatch, file, change)


def test_what_is_not_a_number_is_so_on_both_sides() -> None:
    """The published loss of boxes is, where no predicted box is one."""
    nan = torch.tensor([torch.nan, 1.0])
    for ours, fails in ((nan.clone(), False), (torch.tensor([torch.nan, 1.1]), True), (torch.ones(2), True)):
        comparison = parity.Comparison()
        comparison.loss("loss", ours, nan)
        assert bool(comparison.failures) == fails


@pytest.mark.parametrize("name", ["out.loss", "grad.logit_scale"])
def test_a_missing_number_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = failures(monkeypatch, "one_peace/fixture2_pretrain_vl.json", lambda _, tensors: tensors.pop(name) and None)
    assert found == [f"{name} is listed, and not in the file"]


def test_a_number_that_nothing_is_compared_with_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = GOLDEN / "one_peace" / "fixture4_classify_image"
    tensors = load_file(source.with_suffix(".safetensors"))
    save_file(tensors | {"out.other": tensors["out.logits"].clone()}, tmp_path / f"{source.name}.safetensors")
    (tmp_path / f"{source.name}.json").write_bytes(source.with_suffix(".json").read_bytes())
    assert parity.main(tmp_path) == 0
    assert f"not compared: out.other: {parity.UNKNOWN}" in capsys.readouterr().out


def test_settings_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules by their names, layers by those of the parameters."""

    def change(meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        meta["lr"] = {"lr4e-4 min2e-4 warm2 max10": {"1": 3e-4, "2": 4e-4, "6": 3e-4}}
        layer = "encoder_wrapper.fusion_model.layers.{}.gamma_1"
        meta["param_groups"] = {
            "deep_0.5": [
                {"weight_decay": 0.0, "lr_scale": 0.5 ** (6 - 1 - k), "params": [layer.format(k)]} for k in range(5)
            ]
        }

    assert not failures(monkeypatch, "one_peace/fixture_x_optim.json", change)


def test_losses_whose_terms_cancel_are_held_to_the_size_of_the_terms() -> None:
    """What is left of a sum after rounding is no part of it; beyond that a loss fails."""
    for name, nll, off, good in (
        ("caption_ls0.1", 30.0, 3e-5, True),
        ("caption_ls0.1", 30.0, 3e-4, False),
        ("el_stub_log_end_0.5", 0.1, 9e-6, True),
        ("el_stub_log_end_0.5", 0.1, 3e-5, False),
    ):
        compare = parity.Comparison()
        loss = SequenceLoss(torch.tensor(1e-3 + off), torch.tensor(nll), 7)
        parity_ofa_losses.compare_case(compare, name, loss, {"loss": 1e-3, "nll_loss": nll, "sample_size": 7.0})
        assert bool(compare.failures) != good


def test_a_small_gradient_that_is_changed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "trie_ls0.1/grad/decoder.layers.1.encoder_attn.q_proj.bias"

    def changed(path: Path) -> dict[str, Tensor]:
        tensors = load_file(path)
        if name in tensors:
            tensors[name][-1] += 5e-6
        return tensors

    monkeypatch.setattr(parity_ofa_losses, "load_file", changed)
    path = GOLDEN / "ofa" / "losses.json"
    (failure,) = parity.run_check(path, parity.find_check(path.stem)).failures
    assert "q_proj.bias" in failure


def test_the_weights_of_attention_are_those_that_it_uses() -> None:
    """Whatever a head's width is multiplied by."""
    attention = CrossAttention(dataclasses.replace(tiny_ofa.CONFIG, position_scale=3.0, head_scale=False))
    x, features = torch.randn(2, 2, 3, 32, generator=torch.Generator().manual_seed(0))
    keys, values = attention.keys_values(features)
    weights = attention_weights(attention, 3.0, x, (keys, values), torch.zeros(1))
    torch.testing.assert_close(
        attention.out((weights @ values).transpose(1, 2).flatten(2)), attention(x, (keys, values), None)
    )


def test_position_buffers_of_settings_that_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = golden_ofa.manifest(GOLDEN / "ofa")
    for name in ("image_bucket_size", "token_bucket_size"):
        del facts["args"][name]
    monkeypatch.setattr(golden_ofa, "manifest", lambda _: facts)
    path = GOLDEN / "ofa" / "position_buffers.json"
    assert not parity.run_check(path, parity.find_check(path.stem)).failures


def test_optimizer_of_another_shape(tmp_path: Path) -> None:
    source = GOLDEN / "one_peace" / "fixture_x_adam.safetensors"
    path = tmp_path / "fixture_x_adam.json"
    wide = {name: torch.cat([tensor, tensor], -1).contiguous() for name, tensor in load_file(source).items()}
    save_file(wide, path.with_suffix(".safetensors"))
    path.write_bytes(source.with_suffix(".json").read_bytes())
    check = parity.find_check(path.stem)
    assert check is not None
    assert not parity.run_check(path, check).failures


@pytest.mark.parametrize(
    "stem",
    ["fixture1b_retrieval_val", "fixture_1b_retrieval_val", "b_fixture1_retrieval_val", "fixtureB1_retrieval_val"],
)
def test_names_of_other_sets(stem: str) -> None:
    assert parity.find_check(stem) is parity.find_check("fixture1_retrieval_val")


def test_a_file_without_a_check_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fixture_x_adam.json", "fixture_x_adam.safetensors"):
        (tmp_path / name).write_bytes((GOLDEN / "one_peace" / name).read_bytes())
    assert parity.main(tmp_path) == 0
    (tmp_path / "fixture_y.json").write_text("{}")
    assert parity.main(tmp_path) == 0
    assert "no check of this name" in capsys.readouterr().out
    (tmp_path / "fixture_x_adam.json").unlink()
    (tmp_path / "fixture_x_adam.safetensors").unlink()
    assert parity.main(tmp_path) == 1, "with no other file there is nothing to say"


def test_a_wrong_number_fails(tmp_path: Path) -> None:
    """The checks notice an error of 1e-3 in one weight of the pretraining fixture."""
    source = GOLDEN / "one_peace" / "fixture3_pretrain_al"
    tensors = load_file(source.with_suffix(".safetensors"))
    tensors["weights.encoder_wrapper.fusion_model.layers.0.self_attn.ln.weight"][0] += 1e-3
    save_file(tensors, tmp_path / "fixture3_pretrain_al.safetensors")
    (tmp_path / "fixture3_pretrain_al.json").write_bytes(source.with_suffix(".json").read_bytes())
    path = tmp_path / "fixture3_pretrain_al.json"
    assert parity.run_check(path, parity.find_check(path.stem)).failures


def test_a_folder_without_fixtures_fails(tmp_path: Path) -> None:
    assert parity.main(tmp_path) == 1


def test_a_wrong_shape_fails(tmp_path: Path) -> None:
    """So do those of a state dict, where one entry has a row too many."""
    listed = json.loads((GOLDEN / "one_peace/official_tensors_4b.json").read_text())
    told = listed["listings"]["retrieval_text"]
    rows = [listed["rows"][number] for number in told["rows"]]
    tensors = {name.format(i): {"shape": shape} for name, shape, _, times in rows for i in range(times)}
    values = {"tensors": tensors, "entries": told["entries"], "by_group": told["groups"]}
    values |= {"total_params": told["parameters"], "trainable_params": told["trained"]}
    path = tmp_path / "state_dict_4b_retrieval_text.json"
    path.write_text(json.dumps(values))
    assert not parity.run_check(path, parity.find_check(path.stem)).failures
    tensors["text_proj.bias"] = {"shape": [1537]}
    path.write_text(json.dumps(values))
    assert any("projections.text.bias" in one for one in parity.run_check(path, parity.find_check(path.stem)).failures)
