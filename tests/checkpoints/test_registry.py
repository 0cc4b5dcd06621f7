from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from one_peace import cache
from one_peace.cache import cache_folder
from one_peace.checkpoints import registry
from one_peace.checkpoints.registry import OFFICIAL, built_in_models, list_models, resolve
from one_peace.errors import DownloadError, MissingExtraError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no host, whatever the environment says."""
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(registry.URL_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a built-in model."""
    folder = tmp_path / "weights" / "one-peace-nano"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(registry, "files", lambda package: tmp_path)
    return folder


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "with space.pt"
    file.write_bytes(b"")
    for name in (str(file), file, file.as_uri(), "with space.pt", "./with space.pt"):
        assert resolve(name).resolve() == file
    for absent in (
        "./absent",
        "absent.pt",
        tmp_path / "absent",
        "/a/b/c",
        "runs/image-text/model",
        (tmp_path / "absent").as_uri(),
    ):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            resolve(absent)


def test_unknown_names_are_told_the_nearest(weights: Path) -> None:
    for name, nearest in (
        ("one-peace-nanno", "one-peace-nano"),
        ("one-peace_grounding", "ONE-PEACE_Grounding"),
    ):
        with pytest.raises(ValueError, match=f"did you mean {nearest}"):
            resolve(name)
    for name in ("xyzzy", ""):
        with pytest.raises(ValueError, match="known are one-peace-nano, ONE-PEACE"):
            resolve(name)


def test_official_file_without_a_host_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as error:
        resolve("ONE-PEACE")
    for part in ("one-peace.pt", registry.URL_VARIABLE, "pass its path", str(tmp_path / "cache")):
        assert part in str(error.value)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_file_comes_from_the_host_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "host" / OFFICIAL[name].replace("%2B", "+")
    source.parent.mkdir(parents=True)
    source.write_bytes(b"weights")
    source.with_name(source.name + ".sha256").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  {source.name}\n")
    monkeypatch.setenv(registry.URL_VARIABLE, (tmp_path / "host").as_uri() + "/")
    path = resolve(name)
    assert path.parent == cache_folder() and path.read_bytes() == b"weights"
    source.unlink()
    monkeypatch.delenv(registry.URL_VARIABLE)
    assert resolve(name) == path


def test_official_file_with_wrong_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one-peace.pt").write_bytes(b"something else")
    (tmp_path / "one-peace.pt.sha256").write_text(hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setenv(registry.URL_VARIABLE, tmp_path.as_uri())
    with pytest.raises(DownloadError, match="wrong content"):
        resolve("ONE-PEACE")
    assert not (cache_folder() / "one-peace.pt").exists()


def test_host_without_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one-peace.pt").write_bytes(b"weights")
    monkeypatch.setenv(registry.URL_VARIABLE, tmp_path.as_uri())
    assert resolve("ONE-PEACE").read_bytes() == b"weights"


def test_built_in(weights: Path) -> None:
    assert resolve("one-peace-nano") == weights
    assert built_in_models() == {"one-peace-nano": weights}


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> str:
        raise OSError("no network\nlong story")

    monkeypatch.setattr(registry, "_hub", lambda name: lambda name, **options: str(tmp_path / name))
    assert resolve("somebody/model") == tmp_path / "somebody" / "model"
    monkeypatch.setattr(registry, "_hub", lambda name: offline)
    with pytest.raises(DownloadError, match="no network.*pass its path"):
        resolve("somebody/model")


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"one-peace\[hf\]"):
        resolve("somebody/model")


def test_download_root(tmp_path: Path) -> None:
    (tmp_path / "one-peace.pt").write_bytes(b"weights")
    assert resolve("ONE-PEACE", download_root=tmp_path) == tmp_path / "one-peace.pt"


def test_names(weights: Path) -> None:
    assert len(set(list_models())) == len(list_models())
    assert {"one-peace-nano", "ONE-PEACE", "ONE-PEACE_Grounding"} <= set(list_models())
