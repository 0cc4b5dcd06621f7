"""A study's record as a table and as a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.measures import Mean, difference, mean_over_seeds

Record = Mapping[str, Any]


def values_of(record: Record, arm: str, figure: str, key: str = "value") -> list[float]:
    """One number per seed; none for an arm that has no such figure (no sound, say)."""
    runs = [run for run in record["runs"] if run["arm"] == arm]
    return [run["figures"][figure][key] for run in runs if figure in run["figures"]]


def to_markdown(record: Record) -> str:
    """The whole record: set-up, arms, every figure with its interval, its difference to the first arm, its control."""
    facts = record["facts"]
    arms = [arm["name"] for arm in record["arms"]]
    lines = [
        f"# {record['question']}",
        "",
        f"`{record['command']}`, {facts['date']}, commit {facts['commit'][:7]}"
        f"{'+' if facts['commit'].endswith('+') else ''}, {facts['machine']}, {facts['threads']} thread(s).",
        f"Scale: {', '.join(f'{k} {v}' for k, v in record['scale'].items())}. Seeds: {record['seeds']}.",
        "",
        record["matched"],
        "",
        "| arm | encoder parameters | CPU seconds per run | seconds | |",
        "|---|---|---|---|---|",
    ]
    for arm in record["arms"]:
        runs = [run for run in record["runs"] if run["arm"] == arm["name"]]
        cpu, wall = (sum(run[key] for run in runs) / len(runs) for key in ("cpu_seconds", "seconds"))
        lines.append(f"| {arm['name']} | {runs[0]['parameters']:,} | {cpu:.0f} | {wall:.0f} | {arm['note']} |")
    lines += [
        "",
        f'Means over seeds with 95 % intervals (Student\'s t); differences are to "{arms[0]}", seed by seed, or to '
        "the first arm that has the figure. **Bold**: the interval leaves out 0.",
        "",
        "| figure | arm | mean (95 %) | difference (95 %) | shuffled |",
        "|---|---|---|---|---|",
    ]
    for figure in _figures(record):
        having = [arm for arm in arms if values_of(record, arm, figure)]
        first = values_of(record, having[0], figure)
        for arm in having:
            values = values_of(record, arm, figure)
            gap = "" if arm == having[0] else _signed(difference(values, first))
            control = mean_over_seeds(values_of(record, arm, figure, "shuffled")).value
            lines.append(f"| {figure} | {arm} | {_interval(mean_over_seeds(values))} | {gap} | {control:.3f} |")
    return "\n".join(lines) + "\n"


def _figures(record: Record) -> list[str]:
    return list(dict.fromkeys(name for run in record["runs"] for name in run["figures"]))


def _interval(mean: Mean) -> str:
    return f"{mean.value:.3f}" + ("" if math.isinf(mean.low) else f" ({mean.low:.3f} to {mean.high:.3f})")


def _signed(mean: Mean) -> str:
    if math.isinf(mean.low):
        return f"{mean.value:+.3f}"
    text = f"{mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
    return f"**{text}**" if mean.low > 0 or mean.high < 0 else text


def draw(record: Record, figures: Sequence[str], path: Path) -> None:
    """A panel per figure: every seed a dot, the mean with its interval, the shuffled control as a line.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from one_peace.errors import MissingExtraError

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the plot", "train") from error
    arms = [arm["name"] for arm in record["arms"]]
    shown = [f for f in figures if any(values_of(record, arm, f) for arm in arms)]
    picture = Figure(figsize=(3.2 * len(shown), 0.5 * len(arms) + 1.8), layout="constrained")
    panels = picture.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, figure in zip(panels, shown, strict=True):
        for row, arm in enumerate(arms):
            values = values_of(record, arm, figure)
            if not values:
                continue
            mean = mean_over_seeds(values)
            axes.plot(values, [row] * len(values), "o", color="#9aa7b5", markersize=4)
            reach = 0.0 if math.isinf(mean.low) else mean.high - mean.value
            axes.errorbar(mean.value, row, xerr=reach, fmt="D", color="#1f4e79", capsize=4, markersize=5)
            control = mean_over_seeds(values_of(record, arm, figure, "shuffled")).value
            axes.plot([control, control], [row - 0.3, row + 0.3], color="#c0392b", linewidth=1.5)
        axes.set_title(figure, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(arms)), arms, fontsize=9)
    panels[0].invert_yaxis()
    picture.suptitle(f"{record['question']}  (dots: seeds; bars: 95 %; red: shuffled pairs)", fontsize=10)
    picture.savefig(path, dpi=110)
