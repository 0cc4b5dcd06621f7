"""The package's face, its scripts and its metadata hold together."""

from __future__ import annotations

import ast
import os
import subprocess
import tomllib
from importlib import resources
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

import one_peace
from one_peace.training import trackers

ROOT = Path(__file__).parent.parent
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = CONFIGURATION["project"]


@pytest.mark.parametrize("name", one_peace.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(one_peace, name) is not None
    assert name in dir(one_peace)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="from_pretraned"):
        _ = one_peace.from_pretraned  # type: ignore[attr-defined]


def test_same_objects_by_either_path() -> None:
    from one_peace.models import from_pretrained

    assert one_peace.from_pretrained is from_pretrained


@pytest.mark.parametrize("script", ["run", ".ci/run"])
def test_script_parses_and_is_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    # with the tests, which ask for it
    assert f"/{script}" in CONFIGURATION["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]


def test_run_explains_itself() -> None:
    done = subprocess.run([ROOT / "run", "help"], capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("demo", "test", "check", "clean", "TORCH_INDEX"))


def test_run_refuses_an_unknown_command() -> None:
    done = subprocess.run([ROOT / "run", "demmo"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "demmo" in done.stderr and "usage" in done.stderr


def test_typing_marker_and_recipes_are_package_data() -> None:
    assert (resources.files("one_peace") / "py.typed").is_file()
    assert any(f.name.endswith(".yaml") for f in (resources.files("one_peace.recipes") / "pretrain").iterdir())


def test_extras_named_in_errors_exist() -> None:
    """`MissingExtraError(feature, extra)` sends people to an extra: there must be one of that name."""
    extras = set(PROJECT["optional-dependencies"])
    computed = set()
    for file in (file for folder in ("src", "benchmarks") for file in (ROOT / folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "MissingExtraError(" in text else ():
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("MissingExtraError"):
                continue
            where = f"{file}:{node.lineno}"
            assert len(node.args) == 2 and not node.keywords, f"{where}: not a feature and an extra"
            if isinstance(node.args[1], ast.Constant):
                assert node.args[1].value in extras, f"{where}: no extra {node.args[1].value!r}"
            else:
                computed.add(file.name)
    assert computed == {"trackers.py"}  # of which the extras are these:
    assert {trackers._missing(name).extra for name in trackers.TRACKERS} <= extras


def test_installed_metadata_is_current() -> None:
    """A changed pyproject.toml needs `./run` (or pip) to install again."""
    try:
        installed = requires("one-peace") or []
    except ModuleNotFoundError:
        pytest.skip("one-peace is on the path without being installed")
    assert len([line for line in installed if "extra ==" not in line]) == len(PROJECT["dependencies"])
    scripts = {entry.name: entry.value for entry in entry_points(group="console_scripts")}
    assert scripts["one-peace"] == PROJECT["scripts"]["one-peace"]
