"""Curves of one or several runs in one picture, a panel per figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from one_peace.errors import InputError, MissingExtraError
from one_peace.training.log import LAST_STEP, Row, read_log

COLUMNS = 4
PANEL = (4.2, 2.8)  # inches
DOTS_PER_INCH = 110
FIRST = (  # panels in this order, then whatever else the logs hold
    "total",
    "contrast",
    "denoise_anchor",
    "denoise_partner",
    "denoise_joint_anchor",
    "denoise_joint_partner",
    "anchor_correct",
    "partner_correct",
    "lr",
    "grad_norm",
    "temperature",
    "pairs_per_second",
    "tokens_per_second",
    "mfu",
    "waiting",
)
HIDDEN = ("step", "best_step", "seconds_left", "matmul_tflops")
LOGARITHMIC = ("grad_norm",)
STYLES = ("-", "--", ":", "-.")


def draw_curves(runs: Sequence[Path], out: Path) -> Path:
    """Draws the logs of some runs (folders or log files) as a picture, whose ending decides the format.

    A run is a colour, a figure a panel; recall at different ranks shares one. Steps without a number (a gradient
    that was not finite) are gaps.

    Raises:
        InputError: a log that is missing, empty or damaged.
        MissingExtraError: matplotlib is not installed.
        ValueError: no such picture format.
    """
    logs = {name: read_log(run) for name, run in zip(_names(runs), runs, strict=True)}
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("drawing curves", "train") from error
    panels = _panels(logs.values())
    if not panels:
        raise InputError(str(runs[0]), "its log has rows, but no figures in them")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure((PANEL[0] * columns, PANEL[1] * rows + 0.6), layout="constrained")
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if out.suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"{out}: pictures end with one of {', '.join('.' + ending for ending in known)}")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (title, keys) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, keys, list(logs.values()))
    for axis in axes[len(panels) :]:
        axis.remove()
    axes[(rows - 1) * columns].set_xlabel("step", fontsize=8)
    shown = [axes[0].plot([], [], color=f"C{number % 10}")[0] for number in range(len(logs))]
    figure.legend(shown, list(logs), loc="outside upper left", ncols=max(1, min(4, len(logs))), fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DOTS_PER_INCH)
    return out


def _draw_panel(axis: Any, title: str, keys: Sequence[str], logs: Sequence[Sequence[Row]]) -> None:
    for number, log in enumerate(logs):
        for key, style in zip(keys, STYLES, strict=False):
            points = [(row["step"], row[key]) for row in log if key in row]
            steps, values = [s for s, _ in points], [v if _is_figure(key, v) else math.nan for _, v in points]
            label = f"@{key.partition('@')[2]}" if number == 0 and len(keys) > 1 else None
            alone = sum(math.isfinite(v) for v in values) < 2  # no line to see
            axis.plot(steps, values, style, color=f"C{number % 10}", label=label, marker="." if alone else None)
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.tick_params(labelsize=7)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    if title in LOGARITHMIC:
        axis.set_yscale("log", nonpositive="mask")
    if len(keys) > 1:
        axis.legend(fontsize=7)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where those are the same."""
    folders = [(run.parent if run.suffix == ".jsonl" else run).resolve() for run in runs]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice")
    return names


def _panels(logs: Iterable[Sequence[Row]]) -> Mapping[str, list[str]]:
    """Title -> keys of the log that share a panel."""
    found = {key for log in logs for row in log for key, value in row.items() if _is_figure(key, value)}
    order = [key for key in FIRST if key in found] + sorted(found - set(FIRST), key=_natural)
    panels: dict[str, list[str]] = {}
    for key in order:
        panels.setdefault(key.partition("@")[0], []).append(key)
    return {keys[0] if len(keys) == 1 else title: keys for title, keys in panels.items()}


def _is_figure(key: str, value: Any) -> bool:
    """Whether a panel can show it. An integer too large for a float is none."""
    return key not in HIDDEN and (isinstance(value, float) or (type(value) is int and abs(value) < LAST_STEP))


def _natural(key: str) -> tuple[str, int]:
    name, _, rank = key.partition("@")
    return name, int(rank) if rank.isdigit() else 0
