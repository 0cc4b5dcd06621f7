"""`one-peace report` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from one_peace.cli.main import app


def test_report_draws_and_refuses(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = tmp_path / "run" / "log.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1, "total": 2.0}\n{"step": 2, "total": 1.0}\n{"st')
    out = tmp_path / "curves.png"
    done = CliRunner().invoke(app, ["report", str(log.parent), "--out", str(out)])
    assert done.exit_code == 0 and done.output.strip() == f"wrote {out}" and out.stat().st_size > 1000
    refused = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert refused.exit_code == 1 and "has no log.jsonl" in refused.output and refused.output.count("\n") == 1
