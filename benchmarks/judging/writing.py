"""The record of `quality.py` as a table, in a file of its own and between the markers of the README."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from judging.cases import ARMS, FINE_TUNED, SCRATCH

Record = Mapping[str, Any]


def to_table(record: Record) -> str:
    """One row per test table: sizes, every arm and the guess with 95 % intervals, the gain of pretraining, and the
    date of each where they differ."""
    dated = len({case["date"] for case in record["cases"].values()}) > 1
    runs = [run for case in record["cases"].values() for run in case["arms"].values()]
    minutes = sum(run["cpu_seconds"] for run in runs) / 60
    lines = [
        f"By `{record['command']}`, in {minutes:.0f} minutes of a CPU core: accuracy, with several labels mean average "
        "precision, for retrieval recall@10, with 95 % intervals over the test rows; one seed.",
        f'"{FINE_TUNED}" starts from `{record["model"]}`, "{SCRATCH}" from fresh weights of the same shape, both with '
        "as many updates; the gain is the difference of the two on the same rows, **bold** where its interval leaves "
        "out 0.",
        "",
        f"| task | test rows | {' | '.join(ARMS)} | guess | gain of pretraining |" + " measured |" * dated,
        f"|---|---|{'---|' * len(ARMS)}---|---|" + "---|" * dated,
    ]
    for case in record["cases"].values():
        for test, entry in case["tests"].items():
            name = f"`{case['table']}`" + (f", {test}" if len(case["tests"]) > 1 else "")
            shown = [_interval(entry["arms"][arm]) if arm in entry["arms"] else "" for arm in ARMS]
            guess = f"{_interval(entry['baseline'])} ({case['baseline']})"
            gain = _gain(entry["gain"]) if "gain" in entry else ""
            row = f"| {name} | {entry['rows']} | {' | '.join(shown)} | {guess} | {gain} |"
            lines.append(row + f" {case['date']} |" * dated)
    lines += ["", *(f"* `{c['table']}`: {c['kind']}. {_upper(c['made_of'])}." for c in record["cases"].values())]
    return "\n".join(lines) + "\n"


def to_markdown(record: Record) -> str:
    """The table with what training took."""
    facts = record["facts"]
    lines = [
        "# What pretraining is worth on tasks",
        "",
        f"`{record['command']}`, {facts['date']}, commit {facts['commit'][:7]}"
        f"{'+' if facts['commit'].endswith('+') else ''}, {facts['machine']}, {facts['processes']} process(es) of one "
        "thread.",
        "",
        to_table(record),
        "Each run keeps the best of four evaluations on a part of the training table that it does not learn from, and "
        "is measured once on the test rows. CPU seconds include these evaluations.",
        "",
        "| task | rows to learn, to choose by | arm | rate | updates | best at | validation | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"].values():
        for arm, run in case["arms"].items():
            if not run["updates"]:
                continue
            lines.append(
                f"| {case['table']} | {case['rows']['fit']}, {case['rows']['validation']} | {arm} | {run['lr']:g} "
                f"| {run['updates']} | {run['best_step']} | {run['validation']:.3f} | {run['cpu_seconds']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with the lines between `<!-- NAME:begin` and `<!-- NAME:end -->` replaced.

    Raises:
        ValueError: the markers are not there.
    """
    pattern = re.compile(rf"(<!-- {name}:begin[^\n]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"the text has no single pair of markers <!-- {name}:begin --> and <!-- {name}:end -->")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def _interval(estimate: Mapping[str, float]) -> str:
    value, low, high = (f"{estimate[key]:.2f}".removeprefix("0") for key in ("value", "low", "high"))
    return value if estimate["low"] == estimate["high"] else f"{value} ({low}-{high})"


def _gain(estimate: Mapping[str, float]) -> str:
    text = f"{estimate['value']:+.2f} ({estimate['low']:+.2f} to {estimate['high']:+.2f})"
    return f"**{text}**" if estimate["low"] > 0 or estimate["high"] < 0 else text


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
