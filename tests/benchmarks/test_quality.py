"""A small part of the quality benchmark, end to end on a tiny table, and what its figures and tables are made of."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from one_peace.tasks.classification import Classification
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.task import TaskBatch
from tiny_models import tiny_processors

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from judging.baselines import centre_box, most_frequent  # noqa: E402
from judging.cases import ARMS, CASES, FINE_TUNED, SCRATCH, Case  # noqa: E402
from judging.figures import Hits, Scored, difference, estimate, split_batch  # noqa: E402
from judging.runs import Setting, divide, run_case  # noqa: E402
from judging.writing import replace_block, to_markdown, to_table  # noqa: E402
from quality import MARKER, MODEL, PAGE, RESULTS, keep, newest_cases  # noqa: E402

from one_peace.data.sample_tasks import SAMPLE_TASKS  # noqa: E402

COLOURS = {"red": (210, 30, 30), "green": (30, 200, 30), "blue": (30, 40, 210)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours in place of the emoji: learned in a few updates."""
    root = tmp_path_factory.mktemp("tables")
    folder = root / "emoji-groups"
    folder.mkdir()
    for split, shades in (("train", range(16)), ("test", range(16, 22))):
        lines = ["uniq_id\timage\tlabel"]
        for shade in shades:
            for name, colour in COLOURS.items():
                path = folder / f"{name}{shade}.png"
                Image.new("RGB", (64, 64), tuple(c + shade for c in colour)).save(path)
                lines.append(f"{name}/{shade}\t{path}\t{name}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (folder / "labels.json").write_text(json.dumps(sorted(COLOURS)))
    return root


def small(case: Case) -> Case:
    return dataclasses.replace(case, updates=12, batch_size=12)


def test_a_small_part_of_the_table(tables: Path, tmp_path: Path) -> None:
    """The shipped weights, fresh ones and the head alone, trained and measured as in the whole table."""
    case = small(CASES[0])
    said: list[str] = []
    made = run_case(case, Setting(tables, tmp_path), say=said.append)
    assert len(said) == len(ARMS) and list(made["arms"]) == list(ARMS)
    assert made["rows"]["fit"] + made["rows"]["validation"] == 48
    entry = made["tests"]["test"]
    assert entry["rows"] == 18 and entry["arms"][FINE_TUNED]["value"] > 0.6
    assert entry["baseline"]["value"] == pytest.approx(1 / 3)
    gap = entry["arms"][FINE_TUNED]["value"] - entry["arms"][SCRATCH]["value"]
    assert entry["gain"]["value"] == pytest.approx(gap)
    assert [made["arms"][arm]["updates"] for arm in ARMS] == [12, 12, 36]
    facts = {"date": "2026-01-01", "commit": "0123456789+", "machine": "a machine", "processes": 1}
    record: dict[str, Any] = {"command": "python x", "model": "nano", "part": 0.04, "seed": 1, "facts": facts}
    record["cases"] = {"emoji-groups": made | {"date": facts["date"]}}
    keep(record, tmp_path / "quality-2026-01-01")
    text = (tmp_path / "quality-2026-01-01.md").read_text()
    assert text == to_markdown(record) and "| `emoji-groups` | 18 |" in text and "0123456+" in text
    assert "| measured |" not in text


def recorded(folder: Path, date: str, rows: dict[str, int], part: float = 1.0) -> None:
    """A record of that day of tasks with so many test rows."""
    sure = {"value": 0.5, "low": 0.5, "high": 0.5}
    cases = {
        name: {"table": name, "kind": "", "made_of": "x", "baseline": "b", "arms": {}}
        | {"tests": {"test": {"rows": count, "arms": {}, "baseline": sure}}}
        for name, count in rows.items()
    }
    record = {"model": "nano", "part": part, "seed": 1, "facts": {"date": date}, "cases": cases}
    (folder / f"quality-{date}.json").write_text(json.dumps(record))


def test_of_every_task_the_newest_record_counts(tmp_path: Path) -> None:
    recorded(tmp_path, "2026-01-09", {"drums": 3, "emoji-groups": 4})
    recorded(tmp_path, "2026-01-10", {"drums": 5})
    recorded(tmp_path, "2026-01-11", {"drums": 6}, part=0.1)
    cases = newest_cases(tmp_path.glob("quality-*.json"), "nano", 1.0, 1)
    assert list(cases) == ["emoji-groups", "drums"]
    table = to_table({"command": "python x", "model": "nano", "cases": cases})
    assert "| `emoji-groups` | 4 |" in table and "|  | 2026-01-09 |" in table
    assert "| `drums` | 5 |" in table and "|  | 2026-01-10 |" in table
    head, rule, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert head.endswith("| measured |") and {line.count("|") for line in (rule, *rows)} == {head.count("|")}


def test_the_table_of_the_page_is_that_of_the_records() -> None:
    cases = newest_cases(RESULTS.glob("quality-*.json"), MODEL, 1.0, 1)
    table = to_table({"command": "python benchmarks/quality.py", "model": MODEL, "cases": cases})
    text = PAGE.read_text(encoding="utf-8")
    assert replace_block(text, MARKER, table) == text


def test_the_test_rows_take_no_part_in_choosing(tables: Path, tmp_path: Path) -> None:
    """Groups stay on one side of the division, and every training row is on one."""
    case = dataclasses.replace(CASES[0], together=_shade)
    fit, chosen_by = divide(case, Setting(tables, tmp_path))
    assert (fit, chosen_by) == (39, 9)
    parts = {
        name: {line.split("\t")[0] for line in (tmp_path / f"emoji-groups/{name}.tsv").read_text().splitlines()[1:]}
        for name in ("fit", "validation", "test")
    }
    shades = {name: {key.partition("/")[2] for key in keys} for name, keys in parts.items()}
    assert not shades["fit"] & shades["validation"] and not shades["test"] & (shades["fit"] | shades["validation"])


def _shade(row: dict[str, str]) -> str:
    return "shade " + row["uniq_id"].partition("/")[2]


def test_cases_are_of_known_tables_and_go_to_other_processes() -> None:
    assert {case.table for case in CASES} <= set(SAMPLE_TASKS)
    assert [case.table for case in pickle.loads(pickle.dumps(CASES))] == [case.table for case in CASES]


def scored(hits: list[int]) -> Scored:
    """Two classes; 1 where the right one scores higher."""
    task = Classification(tiny_processors(), "image", LabelMap(["a", "b"]))
    target = torch.arange(len(hits)) % 2
    scores = torch.zeros(len(hits), 2)
    scores[range(len(hits)), [t if hit else 1 - t for t, hit in zip(target.tolist(), hits, strict=True)]] = 1.0
    batch = TaskBatch([str(k) for k in range(len(hits))], {}, target, [{}] * len(hits))
    return Scored(task, split_batch(scores, batch))


def test_intervals_and_differences() -> None:
    one, other = scored([1, 1, 0, 1] * 20), scored([1, 0, 0, 1] * 20)
    found = estimate(one)
    assert found.value == pytest.approx(0.75) and 0.63 < found.low < 0.75 < found.high < 0.85
    gap = difference(one, other)
    spread = 1.96 * np.std([0, 1, 0, 0]) / np.sqrt(80)
    assert gap.value == pytest.approx(0.25)
    assert (gap.low, gap.high) == pytest.approx((0.25 - spread, 0.25 + spread), abs=0.04)
    assert difference(one, one) == difference(other, other)
    with pytest.raises(ValueError, match="the same examples"):
        difference(one, scored([1, 0]))
    assert estimate(Hits(["a", "b"], torch.tensor([1.0, 0.0]))).value == 0.5


def test_guesses() -> None:
    assert most_frequent(torch.tensor([0, 2, 2]), 4).tolist() == [[1, 0, 2, 0]]
    assert most_frequent(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), 2).tolist() == [[1, 2]]
    boxes = torch.tensor([[0.0, 0.2, 0.4, 0.4], [0.5, 0.1, 0.7, 0.5]])
    assert torch.allclose(centre_box(boxes, 4).sigmoid(), torch.tensor([[0.35, 0.35, 0.65, 0.65]]))


def test_the_block_of_the_page() -> None:
    text = "a\n<!-- quality:begin (by hand never) -->\nold\n<!-- quality:end -->\nb\n"
    assert replace_block(text, "quality", "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="no single pair of markers"):
        replace_block(text, "results", "new\n")
    assert replace_block(PAGE.read_text(encoding="utf-8"), "quality", "new\n").count("new\n<!-- quality:end") == 1
