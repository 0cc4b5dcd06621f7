"""Every reference file in tests/golden, through the checks of `parity.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import parity
import parity_one_peace_inputs

GOLDEN = Path(__file__).parent / "golden"
FILES = [path for path in parity.fixtures(GOLDEN) if parity.find_check(path.stem)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_matches_the_reference(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity_ofa_metrics.has_meteor", lambda: False)  # ten seconds of Java
    worded = any(word in path.stem for word in ("tokenizer", "dataset_items"))
    if worded and not parity_one_peace_inputs.vocabulary_folder().exists():
        pytest.skip("the published vocabulary is not here; set ONE_PEACE_VOCAB to its folder")
    result = parity.run_check(path, parity.find_check(path.stem))
    assert result.count and not result.failures, result.failures


def test_a_wrong_number_fails(tmp_path: Path) -> None:
    """The checks notice an error of 1e-3 in one weight of the pretraining fixture."""
    from safetensors.torch import load_file, save_file

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
