"""Records of studies as tables and as plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.measures import Mean, difference, mean_over_seeds

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One figure: of each arm a value per seed, none for an arm that has no such figure (no sound, say), and what
    chance reaches in its place."""

    title: str
    values: Mapping[str, Sequence[float]]
    chance: Mapping[str, float]

    @property
    def arms(self) -> list[str]:
        """Those that have the figure."""
        return [arm for arm, values in self.values.items() if values]

    def gap(self, arm: str) -> Mean | None:
        """The difference to the first arm, which has none."""
        first = self.arms[0]
        return None if arm == first else difference(self.values[arm], self.values[first])

    def cells(self, arm: str) -> str:
        """Its mean and its difference as two cells of a table."""
        gap = self.gap(arm)
        return f"{_interval(mean_over_seeds(self.values[arm]))} | {'' if gap is None else _signed(gap)}"


def panels_of(record: Record) -> list[Panel]:
    """All figures of a study."""

    def values(figure: str, key: str) -> dict[str, list[float]]:
        return {
            arm["name"]: [
                run["figures"][figure][key]
                for run in record["runs"]
                if run["arm"] == arm["name"] and figure in run["figures"]
            ]
            for arm in record["arms"]
        }

    def panel(figure: str) -> Panel:
        shuffled = values(figure, "shuffled")
        return Panel(figure, values(figure, "value"), {arm: sum(v) / len(v) for arm, v in shuffled.items() if v})

    return [panel(figure) for figure in dict.fromkeys(name for run in record["runs"] for name in run["figures"])]


def origin(record: Record) -> str:
    """By what command, when, from which code and where a record was made, and how large the models are."""
    facts = record["facts"]
    return (
        f"`{record['command']}`, {facts['date']}, commit {facts['commit'][:7]}"
        f"{'+' if facts['commit'].endswith('+') else ''}, {facts['machine']}, {facts['threads']} thread(s).\n"
        f"Scale: {', '.join(f'{k} {v}' for k, v in record['scale'].items())}. Seeds: {record['seeds']}."
    )


def to_markdown(record: Record) -> str:
    """The whole record: set-up, arms, every figure with its interval, its difference to the first arm, its control."""
    first = record["arms"][0]["name"]
    lines = [
        f"# {record['question']}",
        "",
        origin(record),
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
        f'Means over seeds with 95 % intervals (Student\'s t); differences are to "{first}", seed by seed, or to '
        "the first arm that has the figure. **Bold**: the interval leaves out 0.",
        "",
        "| figure | arm | mean (95 %) | difference (95 %) | shuffled |",
        "|---|---|---|---|---|",
    ]
    for panel in panels_of(record):
        lines += [f"| {panel.title} | {arm} | {panel.cells(arm)} | {panel.chance[arm]:.3f} |" for arm in panel.arms]
    return "\n".join(lines) + "\n"


def _interval(mean: Mean) -> str:
    return f"{mean.value:.3f}" + ("" if math.isinf(mean.low) else f" ({mean.low:.3f} to {mean.high:.3f})")


def _signed(mean: Mean) -> str:
    if math.isinf(mean.low):
        return f"{mean.value:+.3f}"
    text = f"{mean.value:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})"
    return f"**{text}**" if mean.low > 0 or mean.high < 0 else text


def draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Side by side: every seed a dot, the mean with its interval, chance as a line.

    Figures of the same arms share the axis of arms; where the arms differ, it is one figure, and its axis is shared.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from one_peace.errors import MissingExtraError

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the plot", "train") from error
    same = len({tuple(panel.values) for panel in panels}) == 1
    most = max(len(panel.values) for panel in panels)
    picture = Figure(figsize=((3.2 if same else 4.0) * len(panels), 0.5 * most + 1.8), layout="constrained")
    subplots = picture.subplots(1, len(panels), sharex=not same, sharey=same, squeeze=False)[0]
    for number, (axes, panel) in enumerate(zip(subplots, panels, strict=True)):
        for row, (arm, values) in enumerate(panel.values.items()):
            if not values:
                continue
            mean = mean_over_seeds(values)
            axes.plot(values, [row] * len(values), "o", color="#9aa7b5", markersize=4)
            reach = 0.0 if math.isinf(mean.low) else mean.high - mean.value
            axes.errorbar(mean.value, row, xerr=reach, fmt="D", color="#1f4e79", capsize=4, markersize=5)
            chance = panel.chance[arm]
            axes.plot([chance, chance], [row - 0.3, row + 0.3], color="#c0392b", linewidth=1.5)
        axes.set_title(panel.title, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        if number == 0 or not same:
            axes.set_yticks(range(len(panel.values)), list(panel.values), fontsize=9)
            axes.invert_yaxis()
    picture.suptitle(f"{title}  (dots: seeds; bars: 95 %; red: chance)", fontsize=10)
    picture.savefig(path, dpi=110)
