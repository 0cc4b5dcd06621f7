"""Tables of tasks in their forms, and tables that are refused."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path

import pytest

from one_peace.data.mixture import CYCLE
from one_peace.data.task_rows import TaskRows, WeightedRows
from one_peace.errors import InputError

ROWS = [("a", "x.png", "it's 1, 2", "yes"), ("b", "sub/y.png", 'he said "no"', "no\twith tab")]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"table{suffix}"
    names = ("uniq_id", "image", "question", "answer")
    if suffix == ".tsv":
        path.write_text("\n".join("\t".join(row) for row in (names, *ROWS)) + "\n")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in ROWS))
    else:
        quoted = [",".join(f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row) for row in ROWS]
        path.write_text("\n".join([",".join(names), *quoted]) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_all_forms_give_the_same_rows(suffix: str, tmp_path: Path) -> None:
    rows = TaskRows(write(tmp_path, suffix), ("image", "question"), ("image",), tmp_path / "cache")
    rows = pickle.loads(pickle.dumps(rows))
    assert len(rows) == 2
    key, second = rows.row(1)
    assert key.endswith(f"table{suffix}, row 2 (b)")
    assert second["image"] == tmp_path / "sub/y.png"
    assert (second["question"], second["answer"]) == ROWS[1][2:]
    rows.check_ids()


def test_media_may_be_base64(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    content = bytes(range(256))
    path.write_text(f"image\tlabel\n{base64.urlsafe_b64encode(content).decode()}\tdog\n")
    assert TaskRows(path, ("image",), ("image",), tmp_path).row(0)[1]["image"] == content


def test_large_pictures_stand_in_csv_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    content = bytes(200_000)
    path.write_text(f"image,label\n{base64.b64encode(content).decode()},dog\nx.png,a\rb\n")
    rows = TaskRows(path, ("image",), ("image",), tmp_path)
    assert rows.row(0)[1]["image"] == content
    with pytest.raises(InputError, match="t.csv, row 2: is no CSV"):
        rows.row(1)


def test_columns_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('label, path\ndog, x.png\ncat, "a, b.png"\n')
    rows = TaskRows(path, ("image",), ("image",), tmp_path, renamed={"path": "image"}, root=Path("/media"))
    assert rows.row(0)[1] == {"image": Path("/media/x.png"), "label": "dog"}
    assert rows.row(1)[1] == {"image": Path("/media/a, b.png"), "label": "cat"}
    with pytest.raises(InputError, match=r"no column 'audio'; its columns are label, path \(read as image\)"):
        TaskRows(path, ("audio",), ("audio",), tmp_path, renamed={"path": "image"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "image\tlabel\n", "has no rows"),
        ("t.tsv", "", "is empty"),
        ("t.tsv", "picture\tlabel\nx.png\tdog\n", "no column 'image'; its columns are picture, label"),
        ("t.jsonl", "[1]\n", "row 1: is no JSON object"),
        ("t.jsonl", "{\n", "row 1: is no JSON"),
        ("t.txt", "image\n", "must end in .tsv, .csv, .jsonl"),
        ("t.csv", "image,label,label\nx.png,a,b\n", r"several columns that are read as 'label': label, label; rename"),
        ("t.csv", "photo,label, image\nx.png,a,b\n", r"several columns that are read as 'image': photo, image"),
        ("t.jsonl", '{"photo": "x.png", "image": "y.png"}\n', "row 1: has several columns that are read as 'image'"),
    ],
)
def test_tables_that_cannot_be_used(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        TaskRows(tmp_path / name, ("image",), ("image",), tmp_path / "cache", renamed={"photo": "image"})


def test_bad_rows_are_named_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b"id\timage\tlabel\n1\tx.png\n2\t%%%\tdog\n3\tx.png\tdo\xffg\n4\tx.png\tdog\n")
    rows = TaskRows(path, ("image",), ("image",), tmp_path / "cache")
    for index, message in enumerate(
        ["row 1: has 2 columns, the header 3", r"row 2 \(2\): column 'image'", "row 3: is not UTF-8"]
    ):
        with pytest.raises(InputError, match=message):
            rows.row(index)
    assert rows.row(3)[1]["label"] == "dog"
    rows.check_ids()  # they may be passed over


def test_every_row_of_json_lines_says_a_thing_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"path": "x.png"}\n{"image": "y.png", "path": "z.png"}\n{"image": "y.png"}\n')
    rows = TaskRows(path, ("image",), ("image",), tmp_path / "cache", renamed={"path": "image"})
    assert [rows.row(index)[1]["image"].name for index in (0, 2)] == ["x.png", "y.png"]
    with pytest.raises(InputError, match="t.jsonl, row 2: has several columns that are read as 'image': image, path"):
        rows.row(1)


def test_ids_that_occur_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("uniq_id\timage\n7\tx.png\n8\tx.png\n7\ty.png\n")
    with pytest.raises(InputError, match="rows 1 and 3 have the same uniq_id, 7"):
        TaskRows(path, ("image",), ("image",), tmp_path / "cache").check_ids()


def test_tables_drawn_by_weight_show_every_row_once_an_epoch(tmp_path: Path) -> None:
    parts = []
    for number, count in enumerate((7, 5)):
        (tmp_path / f"{number}.tsv").write_text("id\n" + "".join(f"{number}/{k}\n" for k in range(count)))
        parts.append(TaskRows(tmp_path / f"{number}.tsv", ("id",), (), tmp_path / "cache"))
    rows = WeightedRows(parts, [3, 1])
    drawn = [rows.row(rows.drawn(place, 1))[1]["id"] for place in range(2 * CYCLE)]
    for number, (count, draws) in enumerate(((7, 1500), (5, 500))):
        own = [name for name in drawn if name.startswith(f"{number}/")]
        assert len(own) == draws
        epochs = [own[k : k + count] for k in range(0, draws - count, count)]
        assert {tuple(sorted(epoch)) for epoch in epochs} == {tuple(f"{number}/{k}" for k in range(count))}
        assert len({tuple(epoch) for epoch in epochs}) > 50, "in another order each time"


def test_a_byte_order_mark_is_no_part_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n', encoding="utf-8-sig")
    rows = TaskRows(path, ("id",), (), tmp_path / "cache")
    assert [rows.row(index)[1]["id"] for index in range(2)] == ["a", "b"]
