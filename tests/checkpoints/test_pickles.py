from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from one_peace.checkpoints.families import family_of
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.checkpoints.pickles import load_pickle
from one_peace.errors import CheckpointError

CONTAINER = Path(__file__).parents[1] / "golden" / "one_peace" / "fixture_x_checkpoint_small.pt"


def in_old_form() -> bytes:
    buffer = io.BytesIO()
    torch.save(load_pickle(CONTAINER), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def as_arrays() -> bytes:
    arrays = {name: tensor.numpy() for name, tensor in load_pickle(CONTAINER)["model"].items()}
    return pickle.dumps({"model": arrays, "matching_heuristics": True}, protocol=4)


# Made once: the old form names storages by their addresses, whose lengths differ.
FORMS = [cache(form) for form in (CONTAINER.read_bytes, in_old_form, as_arrays)]


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "pickle 2"])
def test_hostile_pickle(tmp_path: Path, how: str) -> None:
    path, mark = tmp_path / "hostile.pt", tmp_path / "executed"
    content = {
        "model": {"logit_scale": torch.zeros(1).numpy() if "pickle" in how else torch.zeros(1)},
        "cfg": Hostile(mark),
    }
    if "pickle" in how:
        path.write_bytes(pickle.dumps(content, protocol=2 if "2" in how else 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=r"hostile\.pt: refused, the pickle wants to use posix\.mkdir; [^\n]*$"):
        load_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_namespace_and_tensors(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "old.pt"
    content = {"args": argparse.Namespace(layers=3), "model": {"a": torch.arange(4.0)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = load_pickle(path)
    assert loaded["args"].layers == 3
    assert torch.equal(loaded["model"]["a"], content["model"]["a"])


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_pickle(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "vision.pkl"
    content = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": torch.arange(4).to(torch.bfloat16)}
    path.write_bytes(pickle.dumps({"model": content, "matching_heuristics": True}, protocol=protocol))
    loaded = load_pickle(path)["model"]
    assert np.array_equal(loaded["a"], content["a"])
    assert torch.equal(loaded["b"], content["b"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage(tmp_path: Path, data: st.DataObject) -> None:
    """A damaged file loads or is a `CheckpointError` that names it; nothing else."""
    content = bytearray(data.draw(st.sampled_from(FORMS), "form")())
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        near = st.integers(0, 40_000) | st.integers(len(content) - 20_000, len(content) - 1)
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(near)] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    for read in (family_of, read_official):
        try:
            read(path)
        except CheckpointError as error:
            assert "damaged.pt" in str(error)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "absent.pt")


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon")
@pytest.mark.parametrize("form", ["zip", "legacy", "plain arrays", "plain tensors"])
def test_weights_are_mapped(tmp_path: Path, form: str) -> None:
    """Opening a file of 64 MB takes no memory for its weights, whatever its form."""
    path = tmp_path / "large.pt"
    weights = torch.arange(2**24, dtype=torch.float32)
    if form.startswith("plain"):
        with open(path, "wb") as file:
            pickle.dump({"model": {"a": weights.numpy() if "arrays" in form else weights}}, file, protocol=4)
    else:
        torch.save({"model": {"a": weights}}, path, _use_new_zipfile_serialization=form == "zip")
    before = anonymous_bytes()
    loaded = torch.as_tensor(load_pickle(path)["model"]["a"])
    assert torch.equal(loaded[-5:], weights[-5:]) and loaded.shape == weights.shape
    assert anonymous_bytes() - before < 8e6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_legacy_dtypes_views_and_sharing(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "old.pt"
    base = torch.arange(24).reshape(4, 6).to(dtype)
    content = {"whole": base, "part": base[1:3], "turned": base.t(), "none": base[:0], "scalar": base[1, 1]}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    loaded = load_pickle(path)
    for name, tensor in content.items():
        assert loaded[name].dtype == dtype and torch.equal(loaded[name], tensor), name
    assert loaded["part"].untyped_storage().data_ptr() == loaded["whole"].untyped_storage().data_ptr()


def test_arrays_of_other_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "big.pkl"
    path.write_bytes(pickle.dumps({"a": np.arange(5, dtype=">f4"), "b": np.arange(5, dtype="<f4")}))
    loaded = load_pickle(path)
    assert loaded["a"].tolist() == loaded["b"].tolist() == [0, 1, 2, 3, 4]


def test_state_of_known_functions_is_not_changed(tmp_path: Path) -> None:
    """A pickle may not set attributes on what it is allowed to call."""
    path = tmp_path / "hostile.pkl"
    for name in ("argparse Namespace", "_codecs encode", "collections OrderedDict"):
        module, function = name.split()
        path.write_bytes(f"c{module}\n{function}\n(dV__mark__\nI1\nsb.".encode())
        with pytest.raises(CheckpointError, match="sets the state"):
            load_pickle(path)
    assert not hasattr(argparse.Namespace, "__mark__")


def test_storage_out_of_bounds(tmp_path: Path) -> None:
    """A tensor that claims more than its storage holds is damage, not a read of other memory."""
    path = tmp_path / "old.pt"
    torch.save({"a": torch.zeros(300)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    size = b"K\x00M,\x01\x85"  # storage offset 0, size (300,)
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, b"K\x00M,\x7f\x85"))
    with pytest.raises(CheckpointError, match="damaged"):
        load_pickle(path)


def rezipped(path: Path, compression: int, change: dict[str, bytes]) -> Path:
    """The container packed again, with other bytes in some records."""
    with zipfile.ZipFile(CONTAINER) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change.get(name.partition("/")[2], old.read(name)))
    return path


def test_packed_again(tmp_path: Path) -> None:
    """Bytes that are not where or what the pickle says are never taken for weights."""
    path = tmp_path / "again.pt"
    loaded = load_pickle(rezipped(path, zipfile.ZIP_STORED, {}))["model"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in load_pickle(CONTAINER)["model"].items())
    for read in (load_pickle, family_of):
        with pytest.raises(CheckpointError, match=r"again\.pt: its records are compressed; "):
            read(rezipped(path, zipfile.ZIP_DEFLATED, {}))
    with pytest.raises(CheckpointError, match=r"again\.pt: damaged: no record of the \d+ bytes"):
        load_pickle(rezipped(path, zipfile.ZIP_STORED, {"data/5": bytes(8)}))
    with pytest.raises(CheckpointError, match=r"again\.pt: written on a big-endian machine"):
        load_pickle(rezipped(path, zipfile.ZIP_STORED, {"byteorder": b"big"}))
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("a/readme", "")
    with pytest.raises(CheckpointError, match=r"again\.pt: .*torch\.save did not write"):
        load_pickle(path)


def test_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "quick.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(load_pickle(CONTAINER), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert family_of(path) == "one_peace"
    assert read_official(path).config["width"] == read_official(CONTAINER).config["width"]


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_values_beside_the_weights(tmp_path: Path, form: str) -> None:
    """What training scripts leave in a container loads from every form alike."""
    content = {
        "best": np.float64(0.5),
        "loss": np.float32(0.25),
        "step": np.int64(7),
        "done": np.bool_(True),
        "sum": 1 + 2j,
        "seen": {1, 2},
        "kept": frozenset([3]),
        "counts": Counter("aab"),
        "groups": defaultdict(list, {"a": [1]}),
        "order": OrderedDict(b=1, a=2),
        "raw": bytearray(b"abc"),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
    }
    if form == "zip":
        del content["groups"]  # PyTorch's reader fills no defaultdict
    path = tmp_path / "values.pt"
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content | {"array": np.arange(3)}, path, _use_new_zipfile_serialization=form == "zip")
    loaded = load_pickle(path)
    assert form == "plain" or loaded.pop("array").tolist() == [0, 1, 2]
    assert loaded == content
    assert all(type(loaded[name]) is type(value) for name, value in content.items() if name != "groups")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_with_attributes_and_of_newer_dtypes(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "marked.pt"
    marked, parameter = torch.arange(3.0), torch.nn.Parameter(torch.ones(2))
    marked.owner = parameter.owner = "expert"  # type: ignore[attr-defined]
    content = {"marked": marked, "parameter": parameter, "small": torch.ones(4).to(torch.float8_e4m3fn)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    loaded = load_pickle(path)
    assert all(torch.equal(loaded[name].float(), tensor.float()) for name, tensor in content.items())


def test_shared_and_circular_objects(tmp_path: Path) -> None:
    """A list that is referred to a million times is read once."""
    levels = 20
    nested = [b"(" + (b"h" + bytes([level])) * 2 + b"lq" + bytes([level + 1]) for level in range(levels)]
    path = tmp_path / "laughs.pkl"
    path.write_bytes(b"\x80\x02]q\x00" + b"".join(nested) + b".")
    loaded = load_pickle(path)
    for _ in range(levels):
        assert loaded[0] is loaded[1]
        loaded = loaded[0]
    nested = [b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(22)]
    path.write_bytes(b"\x80\x02}(K\x01\x85q\x00" + b"".join(nested) + b"K\x01u.")  # a dict with such a tuple as key
    with pytest.raises(CheckpointError, match="laughs.pkl: nests tuples"):
        load_pickle(path)
    circle: list[Any] = [np.ones(2)]
    circle.append((circle, np.zeros(2)))
    path.write_bytes(pickle.dumps(circle))
    loaded = load_pickle(path)
    assert loaded[1][0] is loaded and loaded[0].tolist() == [1, 1] and loaded[1][1].tolist() == [0, 0]
