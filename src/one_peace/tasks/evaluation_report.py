"""What came of an evaluation: figures beside their controls, and the table of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from one_peace.tasks.retrieval import Recall, wilson_interval

SHARES = ("accuracy", "accuracy@5", "consensus")  # figures that are means of what each example has of one


@dataclass(frozen=True)
class Measurement:
    """One figure of one split: its value, its 95 % interval where it is a share, the number of examples (queries) and
    of candidates each was looked up among. Controls: `shuffled` is the figure against other examples' answers,
    `constant` that of the one answer that serves best."""

    split: str
    figure: str
    value: float
    examples: int
    low: float | None = None
    high: float | None = None
    candidates: int | None = None
    shuffled: float | None = None
    constant: float | None = None
    published: float | None = None

    @classmethod
    def of(
        cls,
        split: str,
        figure: str,
        value: float,
        examples: int,
        *,
        share: bool,
        shuffled: float | None,
        constant: float | None,
    ) -> Measurement:
        """Of a figure of `examples` examples, with its interval if it is a `share` of them."""
        low, high = wilson_interval(value * examples, examples) if share else (None, None)
        return cls(split, figure, value, examples, low, high, shuffled=shuffled, constant=constant)

    @classmethod
    def of_recall(cls, split: str, figure: str, recall: Recall) -> Measurement:
        """Of queries that were looked up."""
        return cls(
            split,
            figure,
            recall.value,
            recall.queries,
            recall.low,
            recall.high,
            recall.candidates,
            recall.shuffled,
        )


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured of which model, and what could not be used."""

    model: str
    fingerprint: str | None
    kind: str
    rows: list[Measurement]
    left_out: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def as_table(self) -> str:
        """The figures as a Markdown table."""
        lines = [
            "| split | figure | value (95 %) | of | shuffled | one answer | published |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            interval = "" if row.low is None or row.high is None else f" ({row.low:.4f}-{row.high:.4f})"
            among = "" if row.candidates is None else f" x {row.candidates}"
            controls = [
                "" if value is None else f"{value:.4f}" for value in (row.shuffled, row.constant, row.published)
            ]
            lines.append(
                f"| {row.split} | {row.figure} | {row.value:.4f}{interval} | {row.examples}{among} | "
                f"{' | '.join(controls)} |"
            )
        return "\n".join(lines)
