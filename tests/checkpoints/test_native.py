"""Our own format: a folder of safetensors and JSON."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.native import INDEX, WEIGHTS, is_native, open_folder, write_folder
from one_peace.checkpoints.tensor_file import write_tensor_file
from one_peace.errors import CheckpointError

CONFIG = {
    "name": "small",
    "width": 4,
    "layers": 1,
    "heads": 1,
    "ffn_width": 8,
    "modalities": {"text": {"max_tokens": 7}},
}
TENSORS = {
    "a": [torch.arange(6.0).reshape(2, 3)],
    "joined": [torch.ones(2, 2), torch.zeros(3, 2)],
    "half": [torch.arange(5).to(torch.bfloat16)],
    "official.scalar": [torch.tensor(7)],
}


def test_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS)
    opened = open_folder(folder)
    assert is_native(folder) and opened.config == CONFIG and not opened.composed
    assert set(opened.tensors) == {"a", "joined", "half"} and list(opened.leftovers) == ["scalar"]
    assert opened.tensors["joined"][0].tolist() == [[1, 1], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert opened.tensors["half"][0].dtype == torch.bfloat16
    assert opened.leftovers["scalar"][0].item() == 7
    assert "small" in (folder / "README.md").read_text()
    assert json.loads((folder / "preprocessor_config.json").read_text())["text"]["max_tokens"] == 7


def test_a_link_is_followed_to_where_the_model_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk" / "model")
    replace = os.replace

    def on_one_disk(source: Path, target: Path) -> None:
        assert {tmp_path / "disk"} <= {*source.parents} & {*target.parents}, "moved from one disk to another"
        replace(source, target)

    monkeypatch.setattr(os, "replace", on_one_disk)
    for _ in range(2):  # a new folder, and one that is there
        assert write_folder(link, CONFIG, TENSORS) == link
        assert link.is_symlink() and open_folder(tmp_path / "disk" / "model").config == CONFIG


def test_shards(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS, max_shard_bytes=50)
    index = json.loads((folder / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 1 and not (folder / WEIGHTS).exists()
    opened = open_folder(folder)
    assert torch.equal(opened.tensors["a"][0], TENSORS["a"][0])
    write_folder(folder, CONFIG, TENSORS)  # whole again: the shards of the earlier save go
    assert sorted(p.name for p in folder.glob("*.safetensors*")) == [WEIGHTS]


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS, max_shard_bytes=50)
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=shard.name):
        open_folder(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: missing"):
        open_folder(folder)
    write_tensor_file(shard, {"other": [torch.zeros(1)]})
    with pytest.raises(CheckpointError, match="lacks"):
        open_folder(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["a"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="files of this folder"):
        open_folder(folder)


def test_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match="cannot be stored"):
        write_folder(folder, CONFIG, {"a": [torch.zeros(2, dtype=torch.complex64)]})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_folder(tmp_path / "file", CONFIG, TENSORS)


@pytest.mark.parametrize("before, after", [(50, 50), (50, 1000), (1000, 50), (1000, 1000)])
def test_weights_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    """However far an interrupted save came, all weights are the old ones or all are the new ones."""
    new = {name: [torch.full_like(piece, 9) for piece in pieces] for name, pieces in TENSORS.items()}
    new |= {"more": [torch.full((3,), 9.0)]}
    move, allowed, found = os.replace, 0, set()

    def moves(*paths: Path) -> None:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise InterruptedError
        move(*paths)

    for reached in range(20):
        folder = write_folder(tmp_path / f"{reached}", CONFIG, TENSORS, max_shard_bytes=before)
        (folder / "notes.txt").write_text("mine")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", moves)
            allowed = reached
            try:
                write_folder(folder, CONFIG, new, max_shard_bytes=after)
                complete = True
            except InterruptedError:
                complete = False
        tensors = open_folder(folder).tensors
        nines = {bool((tensors[name][0] == 9).all()) for name in tensors}
        assert len(nines) == 1 and nines == {"more" in tensors}, reached
        assert (folder / "notes.txt").read_text() == "mine"
        found |= nines
        if complete:
            break
    assert complete and found == {True, False}
    files = {INDEX, *json.loads((folder / INDEX).read_text())["weight_map"].values()} if after == 50 else {WEIGHTS}
    assert {path.name for path in folder.glob("*.safetensors*")} == files


def test_files_are_safe_before_they_take_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safe: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: safe.add(os.fstat(descriptor).st_ino))
    folder = write_folder(tmp_path / "model", CONFIG, TENSORS, max_shard_bytes=50)
    assert {path.stat().st_ino for path in folder.iterdir()} == safe


def test_a_folder_may_be_a_disk_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a volume of a container: what lies beside it cannot be moved into it."""
    volume = tmp_path / "model"
    volume.mkdir()

    def moved(source: Path, target: Path, move: Callable[..., None] = os.replace) -> None:
        if Path(source).is_relative_to(volume) != Path(target).is_relative_to(volume):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        move(source, target)

    monkeypatch.setattr(os, "replace", moved)
    for _ in range(2):
        write_folder(volume, CONFIG, TENSORS)
        assert torch.equal(open_folder(volume).tensors["a"][0], TENSORS["a"][0])
    assert not [path for path in volume.iterdir() if path.is_dir()] and [*tmp_path.iterdir()] == [volume]


def test_what_killed_saves_left_goes_with_the_next(tmp_path: Path) -> None:
    left, written, other = (tmp_path / f".model{end}" for end in (".saving-left", ".saving-written", ".mine"))
    for path in (left, written, other):
        path.mkdir()
        (path / WEIGHTS).write_bytes(bytes(10))
    descriptor = os.open(written, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as its process does
    write_folder(tmp_path / "model", CONFIG, TENSORS)
    assert {path.name for path in tmp_path.iterdir()} == {"model", written.name, other.name}
    os.close(descriptor)
    write_folder(tmp_path / "model", CONFIG, TENSORS)
    assert {path.name for path in tmp_path.iterdir()} == {"model", other.name}


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=SHAPES, dtypes=st.lists(st.sampled_from(DTYPES), min_size=6, max_size=6))
def test_files_are_read_by_the_library(tmp_path: Path, shapes: list[list[int]], dtypes: list[torch.dtype]) -> None:
    tensors = {f"t{i}": torch.randint(0, 2, shape).to(dtypes[i]) for i, shape in enumerate(shapes)}
    write_tensor_file(tmp_path / "t.safetensors", {name: [tensor] for name, tensor in tensors.items()})
    read = load_file(tmp_path / "t.safetensors")
    assert set(read) == set(tensors)
    assert all(torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in tensors.items())


def small_model() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))


def test_assign_joins_converts_and_keeps_what_is_frozen() -> None:
    module = small_model()
    module[1].requires_grad_(False)
    source: dict[str, list[Tensor]] = {
        "0.weight": [torch.ones(1, 3), torch.zeros(1, 3)],
        "0.bias": [torch.ones(2, dtype=torch.float16)],
        "1.weight": [torch.full((2, 2), 0.3, dtype=torch.float64)],
    }
    assign_tensors(module, source, dtype=torch.bfloat16)
    assert module[0].weight.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module[0].weight.requires_grad and not module[1].weight.requires_grad
    module = small_model()
    assign_tensors(module, source, dtype=None)
    assert [p.dtype for p in module.parameters()] == [torch.float32, torch.float16, torch.float64]


def test_assign_names_everything_before_it_allocates() -> None:
    module = small_model()
    with pytest.raises(CheckpointError) as error:
        assign_tensors(module, {"0.weight": [torch.ones(2, 4)], "more": [torch.ones(())]})
    for part in ("4 tensors", "0.weight: shape 2 x 4", "0.bias: missing", "1.weight: missing", "more: unexpected"):
        assert part in str(error.value)
    assert all(p.is_meta for p in module.parameters())
    odd = {"0.weight": [torch.ones(2, 3) > 0], "0.bias": [torch.ones(2) + 1j], "1.weight": [torch.ones(2, 2).int()]}
    with pytest.raises(
        CheckpointError, match=r"3 tensors .*\n  0.weight: torch.bool in .*\n.*complex64 in .*\n.*int32 in"
    ):
        assign_tensors(module, odd)
    report = assign_tensors(module, {"0.weight": [torch.ones(2, 3)]}, optional=("0.bias", "1."))
    assert report.missing == ["0.bias", "1.weight"] and module[1].weight.is_meta
