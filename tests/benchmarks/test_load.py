"""The measurement of memory at loading, at a size that says nothing but that it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import load  # noqa: E402


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon")
def test_every_source_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["load.py", "--gigabytes", "0.001", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        load.main()
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [tuple(row[:29].rsplit(maxsplit=1)) for row in rows] == load.LOADS
    assert not list(tmp_path.iterdir())
