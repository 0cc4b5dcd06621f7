"""Tables of texts, and OFA's own tables without a header."""

from __future__ import annotations

from pathlib import Path

import pytest

from one_peace.data.published import convert_benchmark
from one_peace.data.published.sentences import GLUE
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.tasks.ofa.sentences import QUESTIONS

LINES = {  # task -> header and a line of train.tsv, and what our table says of it
    "cola": ("", 'gj04\t0\t*\tThe "sailors rode.', {"sentence": 'The "sailors rode.', "label": "0"}),
    "sst2": ("sentence\tlabel", "fine film\t1", {"sentence": "fine film", "label": "1"}),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\twhat?\twho?\t0",
        {"question1": "what?", "label": "0"},
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        "0\twho?\tme\tentailment",
        {"question": "who?", "label": "entailment"},
    ),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t8\t9\ta\tb", {"sentence1": "a", "label": "1"}),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\ta\tb\tnot_entailment", {"label": "not_entailment"}),
    "mnli": ("index\tsentence1\tsentence2\tlabel1\tgold_label", "0\ta\tb\tx\tentailment", {"label": "1"}),
}


@pytest.mark.parametrize("name", GLUE)
def test_glue(name: str, tmp_path: Path) -> None:
    header, line, expected = LINES[name]
    folder = tmp_path / GLUE[name].folder
    folder.mkdir()
    content = "\n".join(filter(None, [header, line, "cut off"])) + "\n"
    (folder / "train.tsv").write_text(content)
    last, file = list(GLUE[name].splits.items())[-1]  # those between are missing
    (folder / file).write_text(content)
    assert convert_benchmark(name, tmp_path, tmp_path / "out").written == {"train": 1, last: 1}
    rows = TaskRows(tmp_path / "out/train.tsv", QUESTIONS[name].columns, (), tmp_path / "cache")
    row = rows.row(0)[1]
    assert {key: row[key] for key in expected} == expected
    assert row["label"] in QUESTIONS[name].answers


def test_disagreement_makes_no_row(tmp_path: Path) -> None:
    lines = ["index\tsentence1\tsentence2\tgold_label", "0\ta\tb\t-", "1\tc\td\tneutral"]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    assert convert_benchmark("mnli", tmp_path, tmp_path / "out").written == {"train": 1}


def test_gigaword(tmp_path: Path) -> None:
    (tmp_path / "train.src.txt").write_text("the\u2028cat\x85\nthe dog\n", encoding="utf-8")
    (tmp_path / "train.tgt.txt").write_text("cat\ndog\n")
    assert convert_benchmark("gigaword", tmp_path, tmp_path / "out").written == {"train": 2}
    assert "train/2\tthe dog\tdog" in (tmp_path / "out/train.tsv").read_text()
    (tmp_path / "train.tgt.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"has 2 lines, train.tgt.txt 1"):
        convert_benchmark("gigaword", tmp_path, tmp_path / "out")


def test_published_ofa_tables(tmp_path: Path) -> None:
    (tmp_path / "vqa_val.tsv").write_text("7\t9\tis it?\t1.0|!+yes\tcat&&dog\taGVsbG8=\n")
    convert_benchmark("ofa-questions", tmp_path, tmp_path / "out")
    row = TaskRows(tmp_path / "out/vqa_val.tsv", (), (), tmp_path / "cache").row(0)[1]
    assert row == {
        "uniq_id": "7",
        "image_id": "9",
        "question": "is it?",
        "answers": "1.0|!+yes",
        "objects": "cat&&dog",
        "image": "aGVsbG8=",
    }
    with pytest.raises(InputError, match="has 6 columns; a table of captions has 5"):
        convert_benchmark("ofa-captions", tmp_path, tmp_path / "out")


def test_one_column_of_the_published_mixture_is_two_of_ours(tmp_path: Path) -> None:
    lines = ["1\taGk=\tthe cat\t\t1,2,3,4\t\tvg\tvisual_grounding", "2\taGk=\t\tis it?\t1.0|!+no\t\tvqa\tqa"]
    (tmp_path / "mixed.tsv").write_text("\n".join(lines) + "\n")
    convert_benchmark("ofa-mixture", tmp_path, tmp_path / "out")
    rows = TaskRows(tmp_path / "out/mixed.tsv", (), (), tmp_path / "cache")
    first, second = (rows.row(index)[1] for index in range(2))
    assert (first["region_coord"], first["answers"]) == ("1,2,3,4", "")
    assert (second["region_coord"], second["answers"]) == ("", "1.0|!+no")
