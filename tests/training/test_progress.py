"""What a person sees: plain lines without a terminal, one live display with everything in it on one."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from one_peace.training.progress import Progress, expected_end, figures, plain_line

ROW = {
    "step": 40,
    "lr": 5e-4,
    "grad_norm": 1.25,
    "pairs_per_second": 512.3,
    "tokens_per_second": 91234.0,
    "waiting": 0.021,
    "mfu": 0.413,
    "seconds_left": 7500.0,
    "contrast": 2.1,
    "denoise_partner": 0.9,
    "anchor_correct": 12.0,
    "total": 3.0,
    "skipped": 2,
}


def test_without_a_terminal_every_report_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, Console(file=io.StringIO())) as progress:
        progress.report({"items": 24})
        progress.tick(40)
        progress.report(ROW)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["items 24", plain_line(ROW)]
    assert "step 40  lr 0.0005  grad_norm 1.25" in lines[1] and "\x1b" not in lines[1]


def test_minus_zero_is_zero() -> None:
    assert plain_line({"total": -0.0}) == "total 0"


def test_on_a_terminal_everything_is_in_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, color_system=None)
    with Progress(100, console, seconds=lambda: 0.0) as progress:
        progress.report({"items": 24})
        progress.tick(39)
        progress.report(ROW)
        progress.tick(40)
        progress.report({"step": 40, "eval/recall": 0.5})
    shown = out.getvalue()
    for part in (
        "items 24",
        "step 40  eval/recall 0.5",
        "40/100",
        "40.0 %",
        "ends Thu 02:05 (in 2 h 5 min)",
        "loss 3.000 (contrast 2.100, partner 0.900)",
        "lr 5.00e-04",
        "gradient 1.25",
        "512 pairs/s",
        "91,234 tokens/s",
        "MFU 41.3 %",
        "waiting for data 2.1 %",
        "skipped 2",
    ):
        assert part in shown, part


def test_the_parts_of_a_loss_are_shown_by_source() -> None:
    row = {"step": 1, "clips/contrast": 1.0, "clips/matching": 0.5, "total": 1.5}
    assert next(iter(figures(row))) == "loss 1.500 (clips/contrast 1.000, clips/matching 0.500)"


def test_a_number_that_is_not_finite_is_said_so() -> None:
    out = io.StringIO()
    with Progress(9, Console(file=out, force_terminal=True, width=200)) as progress:
        progress.report(ROW | {"total": None, "grad_norm": None})
        progress.tick(1)
    assert "loss not finite" in out.getvalue() and "gradient not finite" in out.getvalue()


def test_expected_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert expected_end(None, 0.0) == ""
    assert expected_end(30.0, 0.0) == "ends Thu 00:00 (in 1 min)"
    assert expected_end(2 * 86400 + 7200.0, 0.0) == "ends Sat 02:00 (in 2 d 2 h)"
